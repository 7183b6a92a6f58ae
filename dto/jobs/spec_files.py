"""The files of one submission: what was asked, the script, and what it was asked with."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dto.config.resolve import Resolved
from dto.errors import DtoError
from dto.runs.files import read_json, write_atomic, write_json
from dto.runs.paths import Run, cannot_write

_SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
_VERSIONS = ("dto", "torch", "horovod", "numpy", "safetensors")
_DIFF_BYTES = 4_000_000
_MASK = "***"


def write_submission(run: Run, number: int, job: Resolved, script: str, env: Any) -> None:
    """Fill submission-<number>; spec.json comes last, so a reader of it finds the others."""
    folder = run.submission(number)
    try:
        write_json(folder / "env.json", env)
        write_atomic(folder / "job.sh", script)
        os.chmod(folder / "job.sh", 0o700)
        write_json(folder / "spec.json", job.to_json())
    except OSError as error:
        raise cannot_write(run.path, error) from None


def write_job(run: Run, number: int, scheduler: str, job_id: str | None, log: Path) -> None:
    record = {"scheduler": scheduler, "job_id": job_id, "log": str(log), "submitted": time.time()}
    try:
        write_json(run.submission(number) / "job.json", record)
    except OSError as error:
        raise cannot_write(run.path, error) from None


def read_spec(run: Run, number: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values and origins of an earlier submission.

    Raises:
        DtoError: its spec.json is missing or of another version of dto.
    """
    path = run.submission(number) / "spec.json"
    record = read_json(path)
    if not isinstance(record, dict) or record.get("version") != 1:
        raise DtoError(f"{path} is missing or written by another dto: submit the job anew")
    return record["values"], record.get("origins", {})


def surroundings(spec_seed: int | None, cwd: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """Return what a person needs to repeat the run: code, versions, seed, host, environment."""
    return {
        "created": time.time(),
        "user": _user(),
        "host": socket.gethostname(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "versions": {name: found for name in _VERSIONS if (found := _version(name))},
        "seed": spec_seed,
        "cpus": len(os.sched_getaffinity(0)),
        "driver": _driver(),
        "git": _git(cwd),
        "env": masked(env),
    }


def masked(env: Mapping[str, str]) -> dict[str, str]:
    """Hide the values whose names say that they are secret."""
    return {name: _MASK if _SECRET.search(name) else env[name] for name in sorted(env)}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Return NVIDIA's kernel driver version, without starting nvidia-smi."""
    try:
        text = Path("/sys/module/nvidia/version").read_text()
    except OSError:
        return None
    return text.strip()


def _git(cwd: Path) -> dict[str, str] | None:
    commit = _ask_git(cwd, "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = _ask_git(cwd, "diff", "HEAD") or ""
    cut = f"\n[cut: {len(diff)} characters]" if len(diff) > _DIFF_BYTES else ""
    return {"commit": commit.strip(), "diff": diff[:_DIFF_BYTES] + cut}


def _ask_git(cwd: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words], cwd=cwd, capture_output=True, timeout=30
        )
    except (FileNotFoundError, NotADirectoryError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return str(os.getuid())
