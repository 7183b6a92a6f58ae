"""`dto run`, `dto submit`, `dto render`: one script, here or on the cluster."""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from dto.cli.options import (
    SCRIPT_GRAMMAR,
    cluster_options,
    flags_of,
    json_option,
    new_run_options,
    script_arguments,
    shape_options,
    working_directory,
)
from dto.cli.output import echo_json, echo_note, echo_table, echo_text
from dto.cli.watch import follow_to_end
from dto.config.resolve import Resolved
from dto.jobs.prepare import Typed, prepare
from dto.jobs.schedulers.local import hand_over
from dto.jobs.schedulers.slurm import Slurm
from dto.jobs.submit import Submitted, preview, start_local, submit

code_option = click.option(
    "--code",
    type=click.Choice(["copy", "in-place"]),
    default="copy",
    help="Run a copy of the code as it is now (default), or whatever is there then.",
)


@click.command("run", context_settings=SCRIPT_GRAMMAR)
@shape_options
@new_run_options
@script_arguments
def run_command(script: str, args: tuple[str, ...], is_module: bool, **options: Any) -> None:
    """Train SCRIPT on this machine, or inside the SLURM allocation you are in.

    Everything after SCRIPT is the script's. Ctrl-C once lets it save and stop, twice ends it.
    The exit code is the job's own; 85 means stopped after a save.
    """
    typed = Typed(script, args, is_module, flags_of(options))
    become(start_local(prepare(typed, "local", os.environ, working_directory()), os.environ))


def become(started: Submitted) -> None:
    """Tell where everything is, then be the job."""
    echo_note(f"run {started.run.id}")
    echo_note(f"log {started.log}")
    hand_over(started.run.submission(started.submission) / "job.sh", os.environ)


@click.command("submit", context_settings=SCRIPT_GRAMMAR)
@shape_options
@new_run_options
@cluster_options
@code_option
@click.option("--dry-run", is_flag=True, help="Print what would be submitted; write nothing.")
@click.option("--test-only", is_flag=True, help="Ask SLURM when it would start; submit nothing.")
@click.option("-f", "--follow", is_flag=True, help="Print its log; leave with its exit code.")
@json_option
@script_arguments
def submit_command(
    script: str,
    args: tuple[str, ...],
    is_module: bool,
    code: Any,
    dry_run: bool,
    test_only: bool,
    follow: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Submit SCRIPT to SLURM; prints run id, job id and log path.

    Everything after SCRIPT is the script's.
    """
    typed = Typed(script, args, is_module, flags_of(options))
    job = prepare(typed, "slurm", os.environ, working_directory())
    slurm = Slurm()
    if dry_run:
        return show(job, slurm.command(), as_json)
    if test_only:
        answer = slurm.test(os.fsencode(preview(job)))
        echo_json({"answer": answer}) if as_json else echo_text(answer + "\n")
        return 0
    submitted = submit(job, slurm, os.environ, code)
    announce(submitted, as_json)
    return follow_to_end(submitted.run, slurm, as_json) if follow else 0


def announce(submitted: Submitted, as_json: bool) -> None:
    """Print run id, job id and log path."""
    if submitted.note:
        echo_note(submitted.note)
    facts = {
        "run": submitted.run.id,
        "job_id": submitted.job_id,
        "log": os.fspath(submitted.log),
        "dir": os.fspath(submitted.run.path),
    }
    if as_json:
        echo_json({**facts, "submission": submitted.submission})
        return
    echo_text("".join(f"{name:6} {value}\n" for name, value in facts.items()))


def show(job: Resolved, command: list[str], as_json: bool) -> int:
    """Print the script on stdout, and on stderr the command that would take it as its input."""
    text = preview(job)
    if as_json:
        echo_json({"script": text, "argv": command, **job.to_json()})
        return 0
    echo_text(text)
    echo_note(f"this would be the standard input of: {shlex.join(command)}")
    return 0


@click.command("render", context_settings=SCRIPT_GRAMMAR)
@shape_options
@new_run_options
@cluster_options
@click.option(
    "--scheduler",
    type=click.Choice(["slurm", "local"]),
    default="slurm",
    help="As `dto submit` (default) or as `dto run` would.",
)
@click.option("--why", is_flag=True, help="Show where each value came from instead.")
@json_option
@script_arguments
def render_command(
    script: str,
    args: tuple[str, ...],
    is_module: bool,
    scheduler: Any,
    why: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Print exactly what would be handed over; nothing is written or submitted."""
    typed = Typed(script, args, is_module, flags_of(options))
    job = prepare(typed, scheduler, os.environ, working_directory())
    if why and not as_json:
        _explain(job)
        return 0
    command = Slurm().command() if scheduler == "slurm" else ["bash"]
    return show(job, command, as_json)


def _explain(job: Resolved) -> None:
    values = job.to_json()["values"]
    rows = []
    for field, value in values.items():
        name = "time" if field == "time_seconds" else field
        shown = "" if value is None else value if isinstance(value, str) else repr(value)
        rows.append((name, shown, job.origins[field]))
        if isinstance(value, dict):
            rows += [
                (f"  {name}.{key}", inner, job.origins.get(f"{field}.{key}", ""))
                for key, inner in value.items()
            ]
    echo_table(("setting", "value", "from"), rows)
