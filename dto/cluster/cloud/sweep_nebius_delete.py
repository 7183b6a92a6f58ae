"""Deletes what a cluster left on Nebius, in passes: what hangs on something waits for the next."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence

from dto.cluster.cloud import sweep_nebius
from dto.cluster.cloud.sweep import Found, Leftover, Reason, in_order

_IDLE_PASSES = 12
_EVERY_SECONDS = 10.0
_SECONDS = 600.0
"""The program waits itself until a thing is gone."""
# Exit codes of the program: https://docs.nebius.com/cli/exit-codes
_NOT_THERE = (13, 53)
_FINAL = (2, 3, 4, 5, 7, 15, 55)
"""It was typed or set up wrongly, or we may not."""


def delete(
    name: str,
    project: str,
    keeps: Callable[[Leftover], bool],
    say: Callable[[str], None],
    every_seconds: float = _EVERY_SECONDS,
) -> Found:
    """Delete everything that `keeps` does not hold back; return what is left in the end.

    It ends when nothing more goes for some passes, or could by waiting.
    """
    told: set[str] = set()
    idle = 0
    while True:
        found = sweep_nebius.find(name, project)
        goes = in_order(one for one in found.left if not keeps(one))
        if not goes:
            return found
        before = len(told)
        reasons = delete_once(goes, say, told)
        idle = 0 if len(told) > before else idle + 1
        if idle and (idle > _IDLE_PASSES or (reasons and all(one.is_final for one in reasons))):
            notes = tuple(str(reason) for reason in reasons)
            return Found(found.left, found.unseen, notes)
        if idle:
            time.sleep(every_seconds)


def delete_once(
    goes: Sequence[Leftover], say: Callable[[str], None], told: set[str]
) -> list[Reason]:
    """Try each once, in order; return why some could not go."""
    reasons = []
    for one in goes:
        name = f"{one.kind} {one.id}"
        try:
            done = sweep_nebius.run(one.command, _SECONDS)
        except subprocess.TimeoutExpired:
            reasons.append(Reason(name, f"it was not gone after {_SECONDS:.0f} s", False))
            continue
        if done.returncode and done.returncode not in _NOT_THERE:
            is_final = done.returncode in _FINAL
            reasons.append(Reason(name, sweep_nebius.words_of(done), is_final))
        elif not done.returncode and name not in told:
            told.add(name)
            say(f"deleted {name}")
    return reasons
