"""`dto ls`, `dto status`, `dto logs`: what is known of runs."""

from __future__ import annotations

import os
from typing import Any

import click

from dto.cli.options import json_option, run_argument, run_root_option, working_directory
from dto.cli.output import echo_json, echo_table, echo_text
from dto.cli.watch import follow_to_end, print_all
from dto.errors import UsageError
from dto.jobs.inspect import statuses
from dto.jobs.logs import Reader
from dto.jobs.prepare import find_run_root
from dto.jobs.schedulers.slurm import Slurm
from dto.runs.paths import Run, find_run, list_runs
from dto.runs.state import State, Status


def the_run(text: str, run_root: str | None) -> Run:
    return find_run(find_run_root(run_root, os.environ, working_directory()), text)


@click.command("ls")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("-a", "--all", "show_all", is_flag=True, help="Every run, however old.")
@run_root_option
@json_option
def ls_command(limit: int, show_all: bool, run_root: str | None, as_json: bool) -> None:
    """List runs, newest first."""
    root = find_run_root(run_root, os.environ, working_directory())
    runs = list_runs(root)
    found = statuses(runs if show_all else runs[:limit], Slurm())
    if as_json:
        for status in found:
            echo_json(status.to_json())
        return
    if not found:
        echo_text(f"no runs in {root}\n")
        return
    rows = [(s.id, s.state.value, s.job_id or "-", _progress(s), _loss(s), s.text) for s in found]
    echo_table(("run", "state", "job", "step", "loss", ""), rows)


@click.command("status")
@run_argument
@run_root_option
@json_option
def status_command(run: str, run_root: str | None, as_json: bool) -> int:
    """Say how RUN is doing, or why it ended (default: the latest run).

    RUN is an id or its beginning, a job name, a SLURM job id, a path, or `latest`.
    The exit code is 1 where the run failed.
    """
    found = the_run(run, run_root)
    status = statuses([found], Slurm())[0]
    if as_json:
        echo_json({**status.to_json(), "dir": os.fspath(found.path)})
    else:
        width = max(len(name) for name, _ in _facts(found, status))
        for name, value in _facts(found, status):
            echo_text(f"{name:{width}}  {value}\n")
    return 1 if status.state is State.FAILED else 0


def _facts(run: Run, status: Status) -> list[tuple[str, str]]:
    verdict: dict[str, Any] = status.verdict or {}
    age = status.heartbeat_age
    facts = [
        ("run", status.id),
        ("state", status.state.value),
        ("", status.text),
        ("cause", str(verdict.get("cause", "")) if not verdict.get("ok") else ""),
        ("rank", _plain(verdict.get("rank"))),
        ("node", _plain(verdict.get("node"))),
        ("exit code", _plain(status.exit_code)),
        ("victims", ", ".join(map(str, verdict.get("victims") or ()))),
        ("job", status.job_id or ""),
        ("attempt", f"{status.attempt}, generation {status.generation}" if status.attempt else ""),
        ("world", _world(status)),
        ("step", _progress(status).strip("-")),
        ("loss", _loss(status).strip("-")),
        ("checkpoint", status.commit or ""),
        ("heartbeat", f"{age:.0f} s ago" if age is not None and status.state.is_alive else ""),
        ("dir", os.fspath(run.path)),
        ("log", f"{status.log or run.path}  (dto logs {status.id})"),
        ("go on", f"dto resume {status.id}" if status.resumable else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _plain(value: object) -> str:
    return "" if value is None else str(value)


def _world(status: Status) -> str:
    nodes = f" on {', '.join(status.nodes)}" if status.nodes else ""
    return f"{status.world} ranks{nodes}" if status.world else ""


def _progress(status: Status) -> str:
    if status.step is None:
        return "-"
    return f"{status.step}/{status.total_steps}" if status.total_steps else str(status.step)


def _loss(status: Status) -> str:
    return "-" if status.loss is None else f"{status.loss:.6g}"


@click.command("logs")
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the run is over.")
@click.option("--rank", type=click.IntRange(min=0), help="Only this rank.")
@click.option("--attempt", type=click.IntRange(min=1), help="Only this attempt.")
@run_root_option
@json_option
def logs_command(
    run: str,
    follow: bool,
    rank: int | None,
    attempt: int | None,
    run_root: str | None,
    as_json: bool,
) -> int:
    """Print what the ranks of RUN wrote (default: the latest run)."""
    found = the_run(run, run_root)
    if attempt is not None and attempt not in found.attempts():
        raise UsageError(f"run {found.id} has no attempt {attempt}: it has {found.attempts()}")
    reader = Reader(found, rank, attempt)
    if follow:
        return follow_to_end(found, Slurm(), as_json, reader)
    if rank is not None and not reader.has_files():
        raise UsageError(f"rank {rank} of run {found.id} has written no log")
    print_all(reader, as_json)
    return 0
