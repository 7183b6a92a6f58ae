"""Everything that may ask a job to stop, turned into orders: people, SLURM, the clock."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from dto.launch.stopping import EARLY_SECONDS, Order, Source, is_early_warning, save_budget
from dto.runs.paths import Run
from dto.runs.requests import pending

_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
"""How long saving waits for SLURM's word."""
T = TypeVar("T")


class StopWatch:
    """Looked at on every tick. Knows the deadline and how long before it saving begins."""

    def __init__(
        self,
        run: Run,
        ask_deadline: Callable[[], float | None],
        time_seconds: float | None,
        fixed_budget: float | None,
        is_ending: Callable[[], bool] | None = None,
    ) -> None:
        self._run = run
        self._ask_deadline = ask_deadline
        self._is_ending = is_ending
        self._fixed_budget = fixed_budget
        self.deadline = ask_deadline()
        self._time_seconds = time_seconds
        if time_seconds is None and self.deadline is not None:
            self._time_seconds = self.deadline - time.time()
        self.last_save: float | None = None
        self._seen = {_key(row) for row in pending(run)}  # asked of earlier attempts
        self._polled = 0.0
        self._interrupts = 0
        self._ending: _Answer[bool] | None = None

    @property
    def budget(self) -> float:
        return save_budget(self._time_seconds, self._fixed_budget, self.last_save)

    def tick(self) -> Order | None:
        """Return what has been asked since the last look."""
        if time.monotonic() - self._polled < _POLL_SECONDS:
            return None
        self._polled = time.monotonic()
        return self.asked() or self._look_at_clock()

    def asked(self) -> Order | None:
        """Return what a person has asked for since the last look."""
        if self._ending is not None and self._ending.within(0):
            return _SCANCEL
        for row in pending(self._run):
            if _key(row) in self._seen:
                continue
            self._seen.add(_key(row))
            if row.get("kind") in ("stop", "cancel"):
                who = f"`dto {row['kind']}` by {row.get('by', 'somebody')}"
                return Order(who, "person", kill=row["kind"] == "cancel")
        return None

    def on_signal(self, number: int) -> Order | None:
        """Return the order that a signal means; None for a warning that can wait.

        `is_ending` (given in a batch job only) tells scancel from a preemption; where it takes
        long, saving begins, and `asked` tells of the scancel later.
        """
        if number == signal.SIGINT:
            self._interrupts += 1
            return Order("Ctrl-C", "person", kill=self._interrupts > 1)
        if number == signal.SIGHUP:
            return Order("a closed terminal", "person")
        if number == signal.SIGUSR1:
            if is_early_warning(time.time(), self.deadline, self.budget):
                return None
            return Order("SIGUSR1", self._signaller())
        if self._is_ending is not None:
            self._ending = _Answer(self._is_ending)
            if self._ending.within(_ANSWER_SECONDS):
                return _SCANCEL
        return Order("SIGTERM", self._signaller())

    def _signaller(self) -> Source:
        """Outside a batch job a signal is some person's, who wants no further attempt."""
        return "person" if self._is_ending is None else "scheduler"

    def _look_at_clock(self) -> Order | None:
        if self.deadline is None or time.time() < self.deadline - self.budget:
            return None
        # Somebody may have given the job more time.
        moved = _Answer(self._ask_deadline).within(_ANSWER_SECONDS)
        if moved is not None and moved > self.deadline + EARLY_SECONDS:
            self.deadline = moved
            return None
        return Order("the time limit", "deadline")


_SCANCEL = Order("scancel", "person")


class _Answer(Generic[T]):
    """What SLURM says, asked by a thread: one that is away takes half a minute to show it."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._said: queue.SimpleQueue[T] = queue.SimpleQueue()
        threading.Thread(target=lambda: self._said.put(ask()), daemon=True).start()

    def within(self, seconds: float) -> T | None:
        """Return the answer once, None if it has not come."""
        try:
            return self._said.get(timeout=seconds)
        except queue.Empty:
            return None


def _key(row: dict[str, object]) -> tuple[object, ...]:
    return row.get("t"), row.get("kind"), row.get("by")
