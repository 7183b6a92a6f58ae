"""What ranks tell one another at every step: a stop, a save that is due, the loss; as one sum."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from dto.runtime.control import Control
from dto.runtime.every import Every
from dto.runtime.strategy import Strategy
from dto.runtime.transport import Transport


class Agreement:
    """This rank's word, and what all of them come to.

    It rides with the gradients where the strategy has room for it; else it is a small all-reduce.
    """

    def __init__(
        self,
        transport: Transport,
        device: torch.device,
        every: Every,
        is_stopping: Callable[[], bool],
        saved_at: Callable[[], float],
    ) -> None:
        self._transport, self._device, self._every = transport, device, every
        self._is_stopping, self._saved_at = is_stopping, saved_at
        self.own = 0
        """How many samples of the current batch count as this rank's."""
        self._loss: float | torch.Tensor = 0.0
        self.has_loss = False

    def begin(self, own: int) -> None:
        """A batch is about to be trained on."""
        self.own, self._loss, self.has_loss = own, 0.0, False

    def note_loss(self, loss: torch.Tensor) -> None:
        """Tell the mean loss of this rank's part of the batch, before backward."""
        value = loss.detach()
        self._loss = float(value) * self.own if value.device.type == "cpu" else value * self.own
        self.has_loss = True

    def outgoing(self) -> Control:
        """This rank's word; rank 0 alone looks at the clock."""
        waited = time.monotonic() - self._saved_at()
        is_due = self._transport.rank == 0 and self._every.is_time_due(waited)
        return Control(float(self._is_stopping()), float(self.own), float(is_due), self._loss)

    def reached(self, strategy: Strategy | None) -> Control:
        """The sums over all ranks: they came with the gradients, or are asked for here."""
        control = strategy.take_control() if strategy is not None else self.outgoing()
        if control is not None:
            return control
        mine = self.outgoing()
        values = torch.zeros(4, dtype=torch.float64, device=self._device)
        values[:3] = torch.tensor([mine.stop, mine.samples, mine.save], dtype=torch.float64)
        values[3] = mine.loss
        self._transport.all_reduce(values)
        stop, samples, save, loss = values.tolist()
        return Control(stop, samples, save, loss)

    def wants_stop(self) -> bool:
        """Ask all ranks here and now whether any was told to stop."""
        wanted = torch.tensor([float(self._is_stopping())], device=self._device)
        self._transport.all_reduce(wanted)
        return bool(wanted.item())
