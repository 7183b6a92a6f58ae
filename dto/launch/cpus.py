"""How the CPUs of a machine are shared out among the ranks on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Seat:
    """One agent's claim: the machine it is on, the CPUs it may use, the ranks it will start."""

    host: str
    cpus: tuple[int, ...]
    ranks: int


@dataclass(frozen=True)
class Share:
    """What one rank gets; `cpus` is empty where binding it would only hurt."""

    cpus: tuple[int, ...]
    threads: int


def share_cpus(seats: Sequence[Seat], wanted: int | None = None) -> list[list[Share]]:
    """Return a share for every rank of every seat.

    Seats with the same CPUs on the same machine (several agents on one host without cgroups)
    divide them. Where there are fewer CPUs than ranks nobody is bound. `wanted` caps a share.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for index, seat in enumerate(seats):
        groups.setdefault((seat.host, seat.cpus), []).append(index)
    result: list[list[Share]] = [[] for _ in seats]
    for (_, cpus), members in groups.items():
        shares = iter(_split(cpus, sum(seats[index].ranks for index in members), wanted))
        for index in members:
            result[index] = [next(shares) for _ in range(seats[index].ranks)]
    return result


def _split(cpus: tuple[int, ...], ranks: int, wanted: int | None) -> list[Share]:
    """Cut into equal contiguous pieces, so neighbours share a cache; a remainder stays free."""
    each = len(cpus) // ranks if ranks else 0
    if wanted:
        each = min(each, wanted)
    if each == 0:
        return [Share((), 1)] * ranks
    if ranks == 1 and not wanted:
        return [Share((), each)]
    ordered = sorted(cpus)
    return [Share(tuple(ordered[i * each : (i + 1) * each]), each) for i in range(ranks)]
