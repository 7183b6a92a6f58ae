"""Everything that may ask a job to stop, turned into orders: people, SLURM, the clock."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from dto.launch.stopping import EARLY_SECONDS, Order, Source, is_early_warning, save_budget
from dto.runs.paths import Run
from dto.runs.requests import pending

_POLL_SECONDS = 1.0


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

        `is_ending` (given in a batch job only) tells scancel from a preemption.
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
        if self._is_ending is not None and self._is_ending():
            return Order("scancel", "person")
        return Order("SIGTERM", self._signaller())

    def _signaller(self) -> Source:
        """Outside a batch job a signal is some person's, who wants no further attempt."""
        return "person" if self._is_ending is None else "scheduler"

    def _look_at_clock(self) -> Order | None:
        if self.deadline is None or time.time() < self.deadline - self.budget:
            return None
        moved = self._ask_deadline()  # somebody may have given the job more time
        if moved is not None and moved > self.deadline + EARLY_SECONDS:
            self.deadline = moved
            return None
        return Order("the time limit", "deadline")


def _key(row: dict[str, object]) -> tuple[object, ...]:
    return row.get("t"), row.get("kind"), row.get("by")
