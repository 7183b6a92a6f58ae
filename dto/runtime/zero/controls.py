"""The few values that ranks tell one another while gradients are on their way."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dto.runtime.data_parallel import Control
from dto.runtime.transport import Handle, Transport


class Controls:
    """One small all-reduce that starts with the last gradients and ends no later."""

    def __init__(
        self, transport: Transport, outgoing: Callable[[], Control], device: torch.device
    ) -> None:
        self._transport, self._outgoing, self.device = transport, outgoing, device
        self._handle: Handle | None = None
        self._values = torch.empty(0)
        self._is_new = False

    @torch.no_grad()
    def start(self) -> None:
        mine = self._outgoing()
        loss = mine.loss if isinstance(mine.loss, float) else 0.0
        values = torch.tensor([mine.stop, mine.samples, mine.save, loss], dtype=torch.float32)
        self._values = values.to(self.device)
        if isinstance(mine.loss, torch.Tensor):
            self._values[3] = mine.loss
        self._handle = self._transport.all_reduce_async(self._values)

    def finish(self) -> None:
        if self._handle is not None:
            self._handle.wait()
            self._handle, self._is_new = None, True

    def take(self) -> Control | None:
        """The sums that came with the last synchronised backward; None if there was none since."""
        if not self._is_new:
            return None
        self._is_new = False
        return Control(*self._values.tolist())
