"""`dto stop`, `dto cancel`, `dto resume`: what people ask of a run."""

from __future__ import annotations

import os
from typing import Any, Literal

import click

from dto.cli.options import (
    cluster_options,
    flags_of,
    json_option,
    run_argument,
    run_root_option,
    shape_options,
)
from dto.cli.output import echo_json, echo_text
from dto.cli.runs import the_run
from dto.cli.train import announce, become
from dto.cli.watch import follow_to_end
from dto.jobs.resume import check_resumable, next_submission, resume_local, resume_on_slurm
from dto.jobs.schedulers.slurm import Slurm
from dto.jobs.stop import ask


@click.command("stop")
@run_argument
@run_root_option
@json_option
def stop_command(run: str, run_root: str | None, as_json: bool) -> None:
    """Let RUN finish its step, save and stop (default: the latest run)."""
    _ask(run, run_root, as_json, "stop")


@click.command("cancel")
@run_argument
@run_root_option
@json_option
def cancel_command(run: str, run_root: str | None, as_json: bool) -> None:
    """End RUN at once, without a save (default: the latest run)."""
    _ask(run, run_root, as_json, "cancel")


def _ask(run: str, run_root: str | None, as_json: bool, kind: Literal["stop", "cancel"]) -> None:
    asked = ask(the_run(run, run_root), kind, Slurm())
    if as_json:
        facts = {"run": asked.run.id, "asked": kind, "state": asked.state.value}
        echo_json({**facts, "text": asked.text})
        return
    echo_text(f"run {asked.run.id} is {asked.state.value}: {asked.text}\n")


@click.command("resume")
@shape_options
@cluster_options
@click.option(
    "--scheduler",
    type=click.Choice(["slurm", "local"]),
    help="Go on elsewhere than where the run was.",
)
@click.option(
    "--code",
    type=click.Choice(["original", "current"]),
    default="original",
    help="The code as it was submitted (default), or as it is now.",
)
@click.option("-f", "--follow", is_flag=True, help="Print its log; leave with its exit code.")
@run_root_option
@json_option
@run_argument
def resume_command(
    run: str,
    scheduler: str | None,
    code: Any,
    follow: bool,
    run_root: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Go on with RUN from its last checkpoint, with what it had or with what you now say."""
    found = the_run(run, run_root)
    slurm = Slurm()
    last = check_resumable(found, slurm)
    job = next_submission(found, flags_of(options), code, scheduler)
    if job.spec.scheduler == "local":
        started = resume_local(found, last, job, os.environ)
        if as_json:
            announce(started, as_json)
        become(started)  # in the foreground, so there is nothing to --follow
    submitted = resume_on_slurm(found, last, job, slurm, os.environ)
    announce(submitted, as_json)
    return follow_to_end(found, slurm, as_json) if follow else 0
