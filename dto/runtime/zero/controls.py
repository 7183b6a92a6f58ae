"""The few values that ranks tell one another while gradients are on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from dto.runtime.control import CONTROLS, Control
from dto.runtime.riders import Riders
from dto.runtime.transport import Handle, Transport, broadcast_all


class Controls:
    """One small all-reduce that starts with the last gradients and ends no later.

    Behind the sums of everybody's `Control` travel rank 0's buffers.
    """

    def __init__(
        self,
        transport: Transport,
        outgoing: Callable[[], Control],
        device: torch.device,
        buffers: Iterable[torch.Tensor],
    ) -> None:
        self._transport, self._outgoing, self.device = transport, outgoing, device
        self._buffers = [buffer.data for buffer in buffers]
        self._riders = Riders(self._buffers, device, transport.rank == 0)
        self._handle: Handle | None = None
        self._values = torch.zeros(CONTROLS + self._riders.numel, device=device)
        self._is_new = False
        self.has_even_buffers = False
        """Whether all came with the last gradients, and no forward pass changed them since."""
        self.broadcast_buffers()

    @torch.no_grad()
    def start(self) -> None:
        mine = self._outgoing()
        loss = mine.loss if isinstance(mine.loss, float) else 0.0
        told = self._values[:CONTROLS]
        told.copy_(torch.tensor([mine.stop, mine.samples, mine.save, loss]))
        if isinstance(mine.loss, torch.Tensor):
            told[3] = mine.loss
        self._riders.write(self._values[CONTROLS:])
        self._handle = self._transport.all_reduce_async(self._values)

    def finish(self) -> None:
        if self._handle is not None:
            self._handle.wait()
            self._handle, self._is_new = None, True
            self._riders.read(self._values[CONTROLS:])
            self.has_even_buffers = self._riders.are_all

    def take(self) -> Control | None:
        """The sums that came with the last synchronised backward; None if there was none since."""
        if not self._is_new:
            return None
        self._is_new = False
        return Control(*self._values[:CONTROLS].tolist())

    def before_forward(self, is_silent: bool) -> None:
        """A training pass, which may change buffers, begins; `is_silent`: send nothing."""
        if not (is_silent or self.has_even_buffers):
            self.broadcast_buffers()
        self.has_even_buffers = False

    def broadcast_buffers(self) -> None:
        """Give every rank the buffers of rank 0."""
        broadcast_all(self._transport, self._buffers)
        self.has_even_buffers = True
