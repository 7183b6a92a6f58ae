"""A run on this machine, from its start over its end to its resume, as a person sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """\
import os, sys, time
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], sys.argv[1:], flush=True)
time.sleep(float(os.environ.get("SLEEP", "0")))
sys.exit(int(sys.argv[1]) if os.environ["RANK"] == os.environ.get("BAD_RANK", "0") else 0)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def dto(place: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dto.cli", *words],
        cwd=place, env={**os.environ, **env}, text=True, capture_output=True, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def sleeping(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of two ranks that would sleep for a minute."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dto.cli", "run", "-n", "2", "train.py", "0"],
        cwd=place, env={**os.environ, "SLEEP": "60"}, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while dto(place, "logs").stdout.count("rank ") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def status(place: Path, run: str = "latest") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dto(place, "status", run, "--json").stdout)
    return found


def test_a_run_that_ends_well(place: Path) -> None:
    done = dto(place, "run", "-n", "2", "train.py", "0", "a b", "")
    assert done.returncode == 0, done.stderr
    [run] = place.glob("runs/*-train-*")
    assert run.name in done.stderr and f"{run}/attempt-1" in done.stderr
    found = status(place)
    assert (found["id"], found["state"], found["world"]) == (run.name, "COMPLETED", 2)
    assert found["dir"] == str(run)
    logs = dto(place, "logs", "train").stdout
    assert logs == "[0] rank 0 of 2 ['0', 'a b', '']\n[1] rank 1 of 2 ['0', 'a b', '']\n"
    assert dto(place, "logs", "--rank", "1").stdout == logs.splitlines(True)[1]
    [line] = map(json.loads, dto(place, "logs", "--rank", "1", "--json").stdout.splitlines())
    assert (line["rank"], line["attempt"], line["line"]) == (1, 1, logs.splitlines()[1][4:])
    for command in ("stop", "cancel", "resume"):
        refused = dto(place, command, run.name)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
        assert "COMPLETED" in refused.stderr


def test_a_run_that_fails_is_told_with_the_rank_and_its_code(place: Path) -> None:
    done = dto(place, "run", "-n", "2", "train.py", "3", BAD_RANK="1")
    assert done.returncode == 3
    told = dto(place, "status")
    assert told.returncode == 1, "the thing asked about failed"
    assert "rank 1" in told.stdout and "exited 3" in told.stdout and "dto resume" in told.stdout
    assert status(place)["verdict"]["rank"] == 1
    again = dto(place, "resume", "train", "-n", "1", "--json", BAD_RANK="1")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[0])["submission"] == 2
    found = status(place)
    assert (found["state"], found["world"], found["submission"]) == ("COMPLETED", 1, 2)
    spec = json.loads(next(place.glob("runs/*/submission-2/spec.json")).read_text())
    assert spec["values"]["args"] == ["3"]
    assert spec["origins"]["ranks_per_node"] == "flag --ranks-per-node"


def test_cancel_ends_a_run_at_once(place: Path, sleeping: subprocess.Popen[str]) -> None:
    listed = [json.loads(line) for line in dto(place, "ls", "--json").stdout.splitlines()]
    assert [row["state"] for row in listed] == ["RUNNING"]
    refused = dto(place, "resume")
    assert refused.returncode == 1 and "is RUNNING" in refused.stderr
    asked = dto(place, "cancel", "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["state"] == "CANCELLED"
    assert sleeping.wait(20) == 130
    assert status(place)["state"] == "CANCELLED"


def test_following_a_log_ends_with_the_run_and_its_code(
    place: Path, sleeping: subprocess.Popen[str]
) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-m", "dto.cli", "logs", "-f"],
        cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert follower.stdout is not None
    assert follower.stdout.readline().startswith("[0] rank 0 of 2")
    assert follower.stdout.readline().startswith("[1] rank 1 of 2")
    assert dto(place, "stop").returncode == 0
    _, err = follower.communicate(timeout=30)
    assert follower.returncode == sleeping.wait(10)
    assert "is CANCELLED" in err


def test_ctrl_c_ends_watching_not_the_run(place: Path, sleeping: subprocess.Popen[str]) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-m", "dto.cli", "logs", "-f"],
        cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert follower.stdout is not None and "rank" in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=30)
    assert follower.returncode == 130 and "the run goes on" in err and "Traceback" not in err
    assert status(place)["state"] == "RUNNING"


def test_the_environment_is_kept_with_its_secrets_masked(place: Path) -> None:
    done = dto(place, "run", "train.py", "0", WANDB_API_KEY="abc123", PLAIN="seen")
    assert done.returncode == 0, done.stderr
    [file] = place.glob("runs/*/submission-1/env.json")
    kept = json.loads(file.read_text())
    assert kept["env"]["WANDB_API_KEY"] == "***" and kept["env"]["PLAIN"] == "seen"
    assert kept["versions"]["dto"] and kept["host"] and "abc123" not in file.read_text()


def test_a_rank_or_an_attempt_that_never_was(place: Path) -> None:
    assert dto(place, "run", "train.py", "0").returncode == 0
    for words in (["--rank", "5"], ["--attempt", "9"]):
        done = dto(place, "logs", *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
