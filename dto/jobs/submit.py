"""Makes the run directory of a job and hands its script to a scheduler."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dto.config.resolve import Resolved
from dto.config.spec import JobSpec
from dto.errors import DtoError, SchedulerError
from dto.jobs.code import copy_tree, find_tree
from dto.jobs.render import render
from dto.jobs.schedulers.base import Scheduler
from dto.jobs.spec_files import surroundings, write_job, write_submission
from dto.runs.paths import Run, cannot_write, create_run

LEAST_BYTES = 2**20

CodeChoice = Literal["copy", "in-place"]


@dataclass(frozen=True)
class Submitted:
    """A run that was handed over."""

    run: Run
    submission: int
    job_id: str | None
    log: Path
    note: str = ""
    """One line on the code copy, where there is something to say."""


def preview(job: Resolved) -> str:
    """Return job.sh as it would be, with a placeholder for the run's id; writes nothing."""
    run = Path(job.spec.run_root) / f"YYYYMMDD-HHMMSS-{job.spec.name}-XXXX"
    return render(job.spec, run, 1, sys.executable)


def start_local(job: Resolved, env: Mapping[str, str]) -> Submitted:
    """Make the run directory of a local job. The caller then becomes the job."""
    preview(job)  # refuses what cannot be rendered before anything is written
    run = _new_run(job.spec)
    try:
        return write_local(run, run.add_submission(), job, env)
    except DtoError:
        shutil.rmtree(run.path)
        raise


def write_local(run: Run, number: int, job: Resolved, env: Mapping[str, str]) -> Submitted:
    script = render(job.spec, run.path, number, sys.executable)
    context = surroundings(job.spec.seed, Path(job.spec.cwd), env)
    write_submission(run, number, job, script, context)
    log = run.attempt(max(run.attempts(), default=0) + 1).path
    write_job(run, number, "local", None, log)
    return Submitted(run, number, None, log)


def _new_run(spec: JobSpec) -> Run:
    """Make a run directory where there is room for at least its journal and its logs."""
    root = Path(spec.run_root)
    run = create_run(root, spec.name)
    if shutil.disk_usage(root).free < LEAST_BYTES:
        shutil.rmtree(run.path)
        raise cannot_write(root, OSError(errno.ENOSPC, ""))
    return run


def check_size(spec: JobSpec, scheduler: Scheduler) -> None:
    """Refuse a job that no amount of waiting starts; SLURM itself may queue it for ever.

    `sbatch --test-only` cannot tell it from one whose nodes are drained today.

    Raises:
        SchedulerError: the partition is smaller than the job.
    """
    most = scheduler.nodes_of(spec.partition)
    if most is not None and spec.nodes > most:
        raise SchedulerError(
            f"{spec.nodes} nodes can never be had: partition {spec.partition or '(default)'} has "
            f"{most}; lower -N"
        )


def submit(
    job: Resolved, scheduler: Scheduler, env: Mapping[str, str], code: CodeChoice
) -> Submitted:
    """Make a new run and hand its job to the scheduler.

    Raises:
        SchedulerError: it was refused; nothing of the run is left behind.
        ClusterError: nobody answered.
    """
    preview(job)
    check_size(job.spec, scheduler)
    run = _new_run(job.spec)
    try:
        number = run.add_submission()
        job, note = with_code(job, run, code)
        return _hand_over(run, number, job, scheduler, env, note)
    except DtoError:  # also a lost answer: a job without its folder ends at once
        shutil.rmtree(run.path)
        raise


def submit_again(
    run: Run, after: int, job: Resolved, scheduler: Scheduler, env: Mapping[str, str]
) -> Submitted:
    """Add a submission to a run that ended, and hand it over."""
    check_size(job.spec, scheduler)
    number = run.add_submission(after)
    try:
        return _hand_over(run, number, job, scheduler, env, "")
    except DtoError:  # also a lost answer: a job without its folder ends at once
        shutil.rmtree(run.submission(number))
        raise


def _hand_over(
    run: Run, number: int, job: Resolved, scheduler: Scheduler, env: Mapping[str, str], note: str
) -> Submitted:
    script = render(job.spec, run.path, number, sys.executable)
    context = surroundings(job.spec.seed, Path(job.spec.cwd), env)
    write_submission(run, number, job, script, context)
    job_id = scheduler.submit(os.fsencode(script))
    log = run.path / f"slurm-{job_id}.out"
    write_job(run, number, "slurm", job_id, log)
    return Submitted(run, number, job_id, log, note)


def with_code(job: Resolved, run: Run, choice: CodeChoice) -> tuple[Resolved, str]:
    """Copy the code beside the run and point the job at the copy; the cwd stays the user's."""
    if choice == "in-place":
        return job, ""
    spec = job.spec
    cwd = Path(os.path.realpath(spec.cwd))
    script = _real(Path(spec.script)) if spec.script else None
    place = script.parent if script else cwd
    tree = find_tree(place, script, Path(spec.run_root))
    if tree is None:
        return job, f"{place} is no git work tree: the job runs the code in place"
    copy = copy_tree(tree, run.path.parent)
    try:
        run.code.symlink_to(os.path.relpath(copy, run.path))
    except OSError as error:
        raise cannot_write(run.path, error) from None
    inside = cwd.is_relative_to(tree.root)
    code = copy / cwd.relative_to(tree.root) if inside else copy
    changed = {"code": os.fspath(code), "tree": os.fspath(tree.root)}
    if script is not None:
        changed["script"] = os.fspath(copy / script.relative_to(tree.root))
    origins = {**job.origins, **dict.fromkeys(changed, f"code copy of {tree.root}")}
    return Resolved(spec.model_copy(update=changed), origins), ""


def _real(script: Path) -> Path:
    """Resolve the folder, as git does, and keep a script that is itself a link."""
    return Path(os.path.realpath(script.parent)) / script.name
