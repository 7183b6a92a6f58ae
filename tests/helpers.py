"""What several layers of tests need: start dto as a user does, and find what it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = Path(__file__).parent / "programs"
EXAMPLES = REPOSITORY / "examples"


def dto_argv(*args: str | os.PathLike[str]) -> list[str]:
    """The command line of `dto ARGS` under this interpreter."""
    return [sys.executable, "-m", "dto.cli", *map(os.fspath, args)]


def dto(
    *args: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 110,
) -> subprocess.CompletedProcess[str]:
    """Run a dto command to its end; the exit code is the caller's to judge."""
    return subprocess.run(
        dto_argv(*args), env=env, cwd=cwd, timeout=timeout, text=True, errors="surrogateescape",
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip


def start_dto(
    *args: str | os.PathLike[str], cwd: Path, log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a dto command in a session of its own, its output in `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            dto_argv(*args), env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip


def cannot(reason: str) -> NoReturn:
    """Leave a test out for want of a program; CI has them all, so there it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def wait_for(condition: Callable[[], Any], timeout: float, every: float = 0.05) -> Any:
    """Poll until the condition is truthy and return it; fail where it never is."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every)
    raise AssertionError(f"not within {timeout} s: {condition}")


def job_processes(run_dir: Path) -> dict[str, list[int]]:
    """Pids of a run by role: `job` (coordinator), `agent`, `rank` (the user's script)."""
    found: dict[str, list[int]] = {"job": [], "agent": [], "rank": []}
    mark = f"DTO_RUN_DIR={run_dir}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"dto.launch" in argv and b"job" in argv and str(run_dir).encode() in argv:
            found["job"].append(int(entry.name))
        elif mark in environment and b"dto.launch" in argv and b"agent" in argv:
            found["agent"].append(int(entry.name))
        elif mark in environment and any(item.startswith(b"RANK=") for item in environment):
            found["rank"].append(int(entry.name))
    return found


def kill(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
