"""Who waits for whom, and who serves what: the rules of a parameter server, without any tensors.

One rule makes all three modes: after pushing its step a worker goes on when it is no more than
`staleness` steps ahead of the slowest. Synchronous is 0 (and pushes are averaged into one step of
the optimizer), asynchronous has no bound, bounded is what lies between: the stale synchronous
parallel of Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter
Server" (NIPS 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

from dto.errors import ConfigError

MODES = ("synchronous", "asynchronous", "bounded")


def staleness_of(mode: str, staleness: int | None) -> int | None:
    """How many steps a worker may be ahead of the slowest; None for any number.

    Raises:
        ConfigError: there is no such mode, or the bound does not go with it.
    """
    if mode not in MODES:
        names = ", ".join(MODES)
        raise ConfigError(f"there is no parameter server mode {mode!r}: use one of {names}")
    if mode != "bounded":
        if staleness is not None:
            raise ConfigError(f"staleness goes with mode bounded, not {mode}: leave it out")
        return 0 if mode == "synchronous" else None
    if not isinstance(staleness, int) or isinstance(staleness, bool) or staleness < 0:
        raise ConfigError(
            f"mode bounded needs staleness, the steps that a worker may be ahead of the slowest:"
            f" a whole number from 0 on, not {staleness!r}"
        )
    return staleness


def share_out(sizes: Sequence[int], servers: int) -> list[list[int]]:
    """Numbers of the parameters that each server keeps, from their sizes in elements.

    Each goes where its middle falls if all are laid in a row and cut into equal parts.
    """
    shares: list[list[int]] = [[] for _ in range(servers)]
    total, begin = sum(sizes), 0
    for number, size in enumerate(sizes):
        middle = begin + size / 2
        shares[min(int(middle * servers / max(total, 1)), servers - 1)].append(number)
        begin += size
    return shares


class Clocks:
    """How many steps each worker has pushed, and who has left."""

    def __init__(self, workers: int, staleness: int | None) -> None:
        self.staleness = staleness
        self.steps = [0] * workers
        self.gone: set[int] = set()

    def tick(self, worker: int) -> None:
        """The worker has pushed one more step."""
        self.steps[worker] += 1

    def leave(self, worker: int) -> None:
        """Nobody waits for this worker any more."""
        self.gone.add(worker)

    @property
    def present(self) -> list[int]:
        return [worker for worker in range(len(self.steps)) if worker not in self.gone]

    @property
    def slowest(self) -> int:
        """The steps of the slowest who is here; of the fastest if nobody is."""
        return min((self.steps[worker] for worker in self.present), default=max(self.steps))

    def ahead(self, worker: int) -> int:
        """How many steps the worker has pushed more than the slowest."""
        return self.steps[worker] - self.slowest

    def may_go_on(self, worker: int) -> bool:
        return self.staleness is None or self.ahead(worker) <= self.staleness

    @property
    def laggards(self) -> list[int]:
        """Those whom others wait for."""
        return [worker for worker in self.present if self.steps[worker] == self.slowest]


class Wish:
    """What any worker may ask for, and all do after one and the same step: a stop, a save.

    Workers are at different steps when one of them asks. The first step that nobody has got the
    answer to yet is the one after which all act.
    """

    def __init__(self) -> None:
        self._after: int | None = None

    def ask(self, clocks: Clocks) -> None:
        """A worker asks with the step that it has just pushed."""
        if self._after is None or self._after < clocks.slowest:
            # in lock step nobody has the answer to the newest step before all have pushed it
            fastest = max(clocks.steps)
            lock_step = clocks.staleness == 0
            self._after = fastest if lock_step else fastest + 1

    def is_due(self, steps: int) -> bool:
        """Whether a worker acts after so many steps."""
        return self._after == steps
