"""When a job must begin to stop, and what becomes of it then. Pure: clocks come in as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EARLY_SECONDS = 65.0
"""SLURM may send the signal of `--signal` up to 60 s early (sbatch(1)); five more for the trip."""
LEAST_GRACE_SECONDS = 30.0

Source = Literal["person", "scheduler", "deadline"]


@dataclass(frozen=True)
class Order:
    """To stop, or to end at once (`kill`); `source` decides whether the job goes on by itself."""

    reason: str
    source: Source
    kill: bool = False


def save_budget(
    time_seconds: float | None, fixed: float | None = None, last_save: float | None = None
) -> float:
    """Return how long before the deadline a job begins to save.

    An eighth of its time within 10 s and 120 s, and three times what the last save took.
    """
    if fixed is not None:
        return fixed
    by_time = 120.0 if time_seconds is None else min(max(time_seconds / 8, 10.0), 120.0)
    return max(by_time, 3.0 * (last_save or 0.0))


def is_early_warning(now: float, deadline: float | None, budget: float) -> bool:
    """Tell SLURM's warning before the time limit from a preemption by the same signal.

    The warning can wait: the deadline watch stops the job in time, and not a minute too soon.
    """
    if deadline is None:
        return False
    remaining = deadline - now
    return budget < remaining <= 2 * budget + 2 * EARLY_SECONDS


def grace(now: float, deadline: float | None, budget: float) -> float:
    """Return how many seconds ranks get for saving, from `now`."""
    wanted = max(budget, LEAST_GRACE_SECONDS)
    return wanted if deadline is None else max(min(wanted, deadline - now - 3.0), 1.0)


def parse_time_left(text: str) -> float | None:
    """Return the seconds in squeue's `%L` ([days-][[hours:]minutes:]seconds), None if unlimited."""
    days, dash, clock = text.strip().rpartition("-")
    fields = clock.split(":")
    if not all(field.isdigit() for field in fields) or (dash and not days.isdigit()):
        return None
    seconds = 0
    for field in fields:
        seconds = seconds * 60 + int(field)
    return float(seconds + 86_400 * int(days or 0))
