"""Gradients reduced unit after unit, in one order on every rank, while backward goes on."""

from __future__ import annotations

from collections.abc import Sequence

from dto.runtime.zero.unit import Unit


class Reducer:
    """Sends a unit's gradients once they are complete and those before it are on their way.

    At most two units' are under way at once: in stages 2 and 3 whole gradients live no longer.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        """`units` as backward comes by them."""
        self._units = [unit for unit in units if unit.trained]
        self._next = 0
        self._sent: list[Unit] = []

    def advance(self, weight: float, sends: bool) -> None:
        """Take the gradients that are complete; `sends=False` keeps them on this rank."""
        while self._next < len(self._units) and not self._units[self._next].missing:
            unit = self._units[self._next]
            self._next += 1
            unit.take_gradients(weight)
            if sends:
                self._send(unit)

    def finish(self, weight: float, sends: bool) -> None:
        """Take the others, too: backward is over, whatever has not arrived is zero."""
        for unit in self._units:
            unit.missing = 0
        self.advance(weight, sends)

    def take_left(self, weight: float) -> None:
        """Take gradients that backward has left in the parameters."""
        for unit in self._units:
            unit.take_gradients(weight)

    def send_own(self) -> None:
        """Send what was kept."""
        for unit in self._units:
            if unit.has_own_gradients:
                self._send(unit)

    def _send(self, unit: Unit) -> None:
        unit.start_reduce()
        self._sent.append(unit)
        if len(self._sent) > 2:
            self._sent.pop(0).finish_reduce()

    def wait(self) -> None:
        """Return when all averages have arrived."""
        while self._sent:
            self._sent.pop(0).finish_reduce()

    def reset(self) -> None:
        self._next, self._sent = 0, []
        for unit in self._units:
            unit.reset()
            unit.inputs_left = 0
