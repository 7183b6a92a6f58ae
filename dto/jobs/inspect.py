"""What people read about runs: their state, asked of files first and of SLURM second."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from dto.errors import ClusterError, SchedulerError
from dto.jobs.schedulers.base import QueueEntry, Scheduler
from dto.runs.files import read_json
from dto.runs.paths import Run
from dto.runs.state import Status, read_status

log = logging.getLogger(__name__)


def newest_job(run: Run) -> str | None:
    """Return the SLURM id of the newest submission, None for a local run."""
    number = max(run.submissions(), default=0)
    record = read_json(run.submission(number) / "job.json") or {}
    return str(record["job_id"]) if record.get("job_id") else None


def ask_scheduler(runs: Sequence[Run], scheduler: Scheduler) -> dict[str, QueueEntry] | None:
    """Return the queue's entries for these runs; None where nobody could be asked."""
    job_ids = [job_id for run in runs if (job_id := newest_job(run))]
    if not job_ids:
        return {}
    try:
        return scheduler.query(job_ids)
    except (ClusterError, SchedulerError) as error:
        log.warning("states are from the run directory alone: %s", error)
        return None


def status_of(run: Run, queue: dict[str, QueueEntry] | None) -> Status:
    """Return a run's status, given what the scheduler said about its job."""
    job_id = newest_job(run)
    if job_id is None or queue is None:
        return read_status(run, None, time.time())
    entry = queue.get(job_id)
    return read_status(run, entry.state if entry else "", time.time())


def statuses(runs: Sequence[Run], scheduler: Scheduler) -> list[Status]:
    """Return the status of each run, for one question to the scheduler."""
    queue = ask_scheduler(runs, scheduler)
    return [status_of(run, queue) for run in runs]
