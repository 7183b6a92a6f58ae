"""Goes on with a run that ended: the next submission of the same run directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dto.config.resolve import Resolved, override
from dto.errors import DtoError, UsageError
from dto.jobs.inspect import statuses
from dto.jobs.prepare import flag_layer
from dto.jobs.schedulers.base import Scheduler
from dto.jobs.spec_files import read_spec
from dto.jobs.submit import Submitted, submit_again, write_local
from dto.runs.paths import Run
from dto.runs.requests import post
from dto.runs.state import State

CodeChoice = Literal["original", "current"]


def check_resumable(run: Run, scheduler: Scheduler) -> int:
    """Refuse a run that still lives, or has nothing left to do; return its last submission.

    The next one must follow on that very one: of two who resume at once, one comes too late.

    Raises:
        DtoError: with the command that helps instead.
    """
    last = max(run.submissions(), default=0)
    status = statuses([run], scheduler)[0]
    if status.state.is_alive:
        raise DtoError(
            f"run {run.id} is {status.state.value}: two copies would not help it. "
            f"Watch it with `dto logs -f {run.id}`, or `dto stop {run.id}` first"
        )
    if status.state is State.COMPLETED:
        raise DtoError(f"run {run.id} is COMPLETED: there is nothing left to resume")
    return last


def next_submission(
    run: Run, flags: Mapping[str, Any], code: CodeChoice, scheduler: str | None = None
) -> Resolved:
    """Return the last submission's job with some values replaced.

    Raises:
        UsageError: a flag is wrong, or the code it needs is gone.
    """
    whole = [n for n in run.submissions() if (run.submission(n) / "spec.json").exists()]
    number = max(whole, default=0)
    if number == 0:
        raise UsageError(f"run {run.id} was never submitted: start a new one")
    values, origins = read_spec(run, number)
    if code == "current":
        values, origins = _current_code(run, values, origins)
    if scheduler is not None:
        values, origins = {**values, "scheduler": scheduler}, {**origins, "scheduler": "flag"}
    job = override(values, origins, flag_layer(flags))
    script = job.spec.script
    if script is not None and not os.path.exists(script):
        raise UsageError(f"the script {script} of run {run.id} is gone: put it back")
    return job


def _current_code(
    run: Run, values: dict[str, Any], origins: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Point a job whose code was copied back at the tree that the copy was made of."""
    root = str(origins.get("code", "")).removeprefix("code copy of ")
    copy = os.path.realpath(run.code)
    if not values.get("code") or not run.code.exists():
        return values, origins  # the code always ran in place
    changed: dict[str, Any] = {"code": None, "tree": None}
    if values.get("script"):
        inside = Path(os.path.realpath(values["script"])).relative_to(copy)
        changed["script"] = os.path.join(root, inside)
    return {**values, **changed}, {**origins, **dict.fromkeys(changed, "flag --code current")}


def resume_local(run: Run, after: int, job: Resolved, env: Mapping[str, str]) -> Submitted:
    """Write the next submission of a local run. The caller then becomes the job."""
    number = run.add_submission(after)
    try:
        post(run, "resume")
        return write_local(run, number, job, env)
    except DtoError:
        shutil.rmtree(run.submission(number))
        raise


def resume_on_slurm(
    run: Run, after: int, job: Resolved, scheduler: Scheduler, env: Mapping[str, str]
) -> Submitted:
    """Submit the next submission of a run."""
    post(run, "resume")
    return submit_again(run, after, job, scheduler, env)
