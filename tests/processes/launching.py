"""Starts real jobs for tests: a run directory from values, and `python -m dto.launch job` on it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dto.runs.files import read_json, read_rows, write_json
from dto.runs.paths import Run, create_run

ROOT = Path(__file__).parents[2]

# Trains nothing, but does what a rank of dto's runtime does at its step boundaries.
COOPERATIVE = """
import os, sys, time
from pathlib import Path
from dto.telemetry import connect

link = connect()
rank, steps = int(os.environ["RANK"]), int(sys.argv[1])
run, attempt = Path(os.environ["DTO_RUN_DIR"]), os.environ["DTO_ATTEMPT"]
commits = sorted(run.glob("checkpoints/step-*/manifest.json"), key=lambda p: p.stat().st_mtime_ns)
first = int(commits[-1].parent.name.split(".")[0].removeprefix("step-")) if commits else 0
for step in range(first + 1, steps + 1):
    time.sleep(0.02)
    link.post("metric", step=step, total_steps=steps, values={"loss": 1.0 / step})
    if link.stop_requested:
        if rank == 0:
            folder = run / f"checkpoints/step-{step}.a{attempt}g0"
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text("{}")
            link.post("commit", step=step, name=folder.name, seconds=0.01, bytes=2)
        sys.exit(85)
"""
SLEEPER = "import time\nprint('asleep', flush=True)\ntime.sleep(60)\n"


def make_run(root: Path, text: str, /, **values: Any) -> Run:
    """Write a script and a submission that runs it on two ranks, unless `values` say otherwise."""
    run = create_run(root / "runs", "test")
    path = root / "script.py"
    path.write_text(text)
    defaults: dict[str, Any] = {
        "name": "test",
        "python": sys.executable,
        "script": str(path),
        "module": None,
        "args": [],
        "cwd": str(root),
        "code": None,
        "nodes": 1,
        "ranks_per_node": 2,
        "scheduler": "local",
        "requeue": True,
        "backend": "auto",
        "env": {},
    }
    record = {"version": 1, "values": {**defaults, **values}, "origins": {}}
    write_json(run.submission(run.add_submission()) / "spec.json", record)
    return run


def job_argv(run: Run) -> list[str]:
    return [sys.executable, "-m", "dto.launch", "job", "--run", str(run.path), "--submission", "1"]


@contextmanager
def started(run: Run, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A running job; whatever a failing test left of it is ended by its process group."""
    job = subprocess.Popen(
        job_argv(run),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **options,
    )
    try:
        yield job
    finally:
        if job.poll() is None:
            job.kill()  # its agents and their ranks die with it
        job.communicate()


def finish(run: Run, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    with started(run) as job:
        out, err = job.communicate(timeout=timeout)
        return subprocess.CompletedProcess(job.args, job.returncode, out, err)


def result(run: Run) -> dict[str, Any]:
    """The verdict of the newest attempt."""
    found = read_json(run.attempt(run.attempts()[-1]).result_file)
    assert isinstance(found, dict)
    return found


def journal(run: Run, kind: str) -> list[dict[str, Any]]:
    rows = read_rows(run.attempt(run.attempts()[-1]).journal)
    return [row for row in rows if row["kind"] == kind]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def has_stepped(run: Run) -> Callable[[], bool]:
    """Rank 0 has posted a metric, so its link stands."""
    return lambda: bool(run.attempts()) and bool(journal(run, "metric"))


def has_said(run: Run, word: str, ranks: int = 2) -> Callable[[], bool]:
    """Every rank has written a word to its log."""
    logs = [run.path / f"attempt-1/rank-{rank}.g0.log" for rank in range(ranks)]
    return lambda: all(log.exists() and word in log.read_text() for log in logs)


def children(pid: int) -> list[int]:
    """The living children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
