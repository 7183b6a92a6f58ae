"""Units gathered in one order on every rank, one ahead of its use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Gatherable(Protocol):
    @property
    def is_gathered(self) -> bool: ...

    def start_gather(self) -> None:
        """Start, unless it is under way or there."""

    def finish_gather(self) -> None:
        """Return when it is there."""


class Line:
    """A rank that skips a unit still takes part in its gathering, or the others would wait.

    At most two are under way, so that the number of messages at once does not depend on what a
    rank uses. Where gathered parameters and reduced gradients go through one queue (NCCL,
    Horovod), ranks must use the same units; and so they must where a unit is used twice.
    """

    def __init__(self, units: Sequence[Gatherable]) -> None:
        self._units = list(units)
        self._places = {id(unit): place for place, unit in enumerate(units)}
        self._next = 0

    def begin(self) -> None:
        """A pass begins."""
        self._next = 0

    def need(self, unit: Gatherable) -> None:
        """Return when `unit` is there; the one after it is on its way by then."""
        place = self._places.get(id(unit), -1)
        self._start(min(place + 2, len(self._units)))
        unit.start_gather()  # again: a unit that is used twice
        unit.finish_gather()

    def drain(self) -> None:
        """Take part in what is left of this pass."""
        self._start(len(self._units))
        for unit in self._units[-2:]:
            unit.finish_gather()

    def _start(self, until: int) -> None:
        while self._next < until:
            if self._next >= 2:
                self._units[self._next - 2].finish_gather()
            self._units[self._next].start_gather()
            self._next += 1
