"""Asks a run to end: after a save (`dto stop`), or at once (`dto cancel`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dto.errors import DtoError
from dto.jobs.inspect import newest_job, statuses
from dto.jobs.schedulers.base import Scheduler
from dto.runs.files import read_rows
from dto.runs.paths import Run
from dto.runs.requests import post
from dto.runs.state import State, Status

ANSWER_SECONDS = 20.0
_POLL_SECONDS = 0.2
_NOT_STARTED = {State.QUEUED, State.PREEMPTED}


@dataclass(frozen=True)
class Asked:
    """What came of a request."""

    run: Run
    state: State
    text: str


def ask(run: Run, kind: Literal["stop", "cancel"], scheduler: Scheduler) -> Asked:
    """Post a request, which the coordinator reads within a second; scancel a job that waits.

    Raises:
        DtoError: the run is over, so there is nothing to end.
    """
    before = _status(run, scheduler)
    if not before.state.is_alive:
        raise DtoError(f"run {run.id} is {before.state.value}: there is nothing to {kind}")
    job_id = newest_job(run)
    if before.state is State.STARTING:
        _wait_for(lambda: _has_begun(run))  # a coordinator heeds what is asked after its start
    if job_id is not None and before.state in _NOT_STARTED:
        scheduler.cancel(job_id)
        post(run, kind)  # only now: with SLURM away, the job waits on
        return Asked(run, _settled(run, scheduler).state, "taken out of the queue")
    post(run, kind)
    if kind == "stop":
        return Asked(run, before.state, "asked to save and stop; `dto status` shows when it has")
    return _cancelled(run, job_id, scheduler)


def _cancelled(run: Run, job_id: str | None, scheduler: Scheduler) -> Asked:
    """Wait for the coordinator to end its ranks; where it does not answer, end the whole job."""
    if _wait_for(lambda: _has_result(run)):
        return Asked(run, State.CANCELLED, "all its ranks were ended")
    if job_id is None:
        raise DtoError(
            f"run {run.id} did not answer within {ANSWER_SECONDS:.0f} s: `dto status {run.id}` "
            "names the host where its process is"
        )
    scheduler.cancel(job_id)
    return Asked(run, _settled(run, scheduler).state, "its coordinator did not answer: scancel")


def _has_begun(run: Run) -> bool:
    newest = max(run.attempts(), default=0)
    rows = read_rows(run.attempt(newest).journal) if newest else []
    return any(row.get("submission") == max(run.submissions()) for row in rows)


def _has_result(run: Run) -> bool:
    attempt = max(run.attempts(), default=0)
    return attempt > 0 and run.attempt(attempt).result_file.exists()


def _settled(run: Run, scheduler: Scheduler) -> Status:
    """Give SLURM a moment to take note of a scancel."""
    _wait_for(lambda: not _status(run, scheduler).state.is_alive, 5.0, 0.5)
    return _status(run, scheduler)


def _status(run: Run, scheduler: Scheduler) -> Status:
    return statuses([run], scheduler)[0]


def _wait_for(
    is_true: Callable[[], bool], seconds: float = ANSWER_SECONDS, poll: float = _POLL_SECONDS
) -> bool:
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll)
    return True
