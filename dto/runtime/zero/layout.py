"""Where every parameter of a unit lies in its flat tensor, and which part of it a rank keeps.

A pure function of names, shapes and the world: any rank can tell what each other holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dto.checkpoint.sharded import Part

NO_GROUP = -1
"""The group of parameters that no optimizer steps."""


@dataclass(frozen=True)
class Slot:
    """One parameter: elements [begin, end) of the flat tensor."""

    name: str
    shape: tuple[int, ...]
    group: int
    begin: int

    @property
    def end(self) -> int:
        return self.begin + math.prod(self.shape)


@dataclass(frozen=True)
class Span:
    """Elements [begin, end) of one rank's segment, all of one optimizer group."""

    group: int
    begin: int
    end: int
    parts: tuple[Part, ...]
    """What they are of; `at` counts from `begin`."""


@dataclass(frozen=True)
class Layout:
    """Parameters one after another, padded such that `world` ranks keep segments of one length."""

    slots: tuple[Slot, ...]
    world: int

    @property
    def numel(self) -> int:
        return self.slots[-1].end if self.slots else 0

    @property
    def segment(self) -> int:
        """Elements that each rank keeps."""
        return -(-self.numel // self.world)

    @property
    def padded(self) -> int:
        return self.segment * self.world

    def spans(self, rank: int) -> list[Span]:
        """What a rank keeps, cut where the optimizer's group changes; no padding is in it."""
        first = rank * self.segment
        found: list[Span] = []
        for group, slots in self._by_group():
            begin = max(first, slots[0].begin)
            end = min(first + self.segment, slots[-1].end)
            if begin >= end:
                continue
            parts = tuple(
                Part(
                    slot.name,
                    slot.shape,
                    max(begin, slot.begin) - slot.begin,
                    min(end, slot.end) - slot.begin,
                    max(begin, slot.begin) - begin,
                )
                for slot in slots
                if slot.begin < end and begin < slot.end
            )
            found.append(Span(group, begin - first, end - first, parts))
        return found

    def _by_group(self) -> Iterator[tuple[int, list[Slot]]]:
        for group in sorted({slot.group for slot in self.slots}):
            yield group, [slot for slot in self.slots if slot.group == group]


def lay_out(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], groups: Sequence[int], world: int
) -> Layout:
    """Put parameters of one optimizer group beside each other, else in the order given."""
    slots: list[Slot] = []
    position = 0
    for number in sorted(range(len(names)), key=lambda number: groups[number]):
        slot = Slot(names[number], shapes[number], groups[number], position)
        slots.append(slot)
        position = slot.end
    return Layout(tuple(slots), world)
