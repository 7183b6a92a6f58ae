"""What one rank does in a collective, as values: steps that send and receive ranges of elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""Elements from `begin` up to, not including, `end` of the flattened tensor."""


@dataclass(frozen=True)
class Move:
    """A span of elements that goes to, or comes from, another rank."""

    peer: int
    begin: int
    end: int

    @property
    def span(self) -> Span:
        return self.begin, self.end


@dataclass(frozen=True)
class Step:
    """One send and one receive at the same time, of spans that do not overlap.

    What is sent is as the steps before left it; what comes in is added to what is there
    (`adds`), or takes its place.
    """

    send: Move | None = None
    receive: Move | None = None
    adds: bool = False


Schedule = list[Step]


def split(span: Span, count: int) -> list[Span]:
    """`count` spans in a row, the first ones longer by one where it does not come out even."""
    begin, end = span
    length, longer = divmod(end - begin, count)
    edges = [begin + number * length + min(number, longer) for number in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def elements_sent(schedule: Sequence[Step]) -> dict[int, int]:
    """How many elements a rank sends to each peer; times the size of one, the bytes it sends."""
    sent: dict[int, int] = {}
    for step in schedule:
        if step.send is not None:
            count = step.send.end - step.send.begin
            sent[step.send.peer] = sent.get(step.send.peer, 0) + count
    return sent
