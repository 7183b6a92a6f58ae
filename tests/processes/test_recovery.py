"""Kill anything at any moment, resume: the weights are those of an unbroken run, bit for bit."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.helpers import PROGRAMS, dto, job_processes, kill, start_dto, wait_for

MOMENTS = 20 if os.environ.get("CI") == "true" else 5
VICTIMS = ("rank", "agent", "whole")
CASES = [
    *(pytest.param("gloo", moment, id=f"gloo-{moment}") for moment in range(MOMENTS)),
    *(  # once each: the code that recovers is the same, the sums are Horovod's
        pytest.param("horovod", moment, id=f"horovod-{moment}", marks=pytest.mark.horovod)
        for moment in range(len(VICTIMS))
    ),
]
RANKS = 3
SCRIPT = PROGRAMS / "steady.py"
# 3 ranks on the AdamW state of 0.7 M parameters: a checkpoint takes long enough to be hit.
OPTIONS = ("--hidden", "800", "--epochs", "3", "--pace", "0.03")


def weights(out: Path) -> list[str]:
    return [(out / f"weights-{rank}.txt").read_text() for rank in range(RANKS)]


@pytest.fixture(scope="module")
def unbroken(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[str]]:
    """A backend, and the weights and losses of a run on it that nobody touched."""
    backend = request.param
    root = tmp_path_factory.mktemp("unbroken")
    out = root / "out"
    done = dto(*command(backend, root, out))
    assert done.returncode == 0, done.stderr[-2000:]
    found = weights(out)
    assert len(set(found)) == 1, "the ranks ended with different weights"
    return backend, found


def command(backend: str, root: Path, out: Path) -> list[str | Path]:
    options = ("-n", str(RANKS), "--backend", backend, "--run-root", root)
    return ["run", *options, SCRIPT, out, *OPTIONS]


def in_a_write(run_dir: Path) -> bool:
    """Whether a checkpoint is being written right now: a directory without its manifest."""
    steps = (run_dir / "checkpoints").glob("step-*")
    return any(not (step / "manifest.json").exists() for step in steps)


def strike(run_dir: Path, chance: random.Random, victim: str) -> None:
    """Kill one part of the run at a random moment, every third time inside a checkpoint write."""
    wait_for(lambda: len(job_processes(run_dir)["rank"]) == RANKS, timeout=60)
    if chance.random() < 0.34:
        wait_for(lambda: in_a_write(run_dir), timeout=60, every=0.001)
    else:
        time.sleep(chance.uniform(0.0, 7.0))
    found = job_processes(run_dir)
    if victim == "rank":
        kill([chance.choice(found["rank"])] if found["rank"] else [])
    elif victim == "agent":
        kill(found["agent"])
    else:
        kill(found["job"] + found["agent"] + found["rank"])


@pytest.mark.process
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("unbroken", "moment"), CASES, indirect=["unbroken"])
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_weights(
    unbroken: tuple[str, list[str]], moment: int, tmp_path: Path
) -> None:
    backend, unharmed = unbroken
    chance = random.Random(1000 + moment)
    victim = VICTIMS[moment % len(VICTIMS)]
    out = tmp_path / "out"
    log = tmp_path / "log"
    process = start_dto(*command(backend, tmp_path, out), cwd=tmp_path, log=log)
    [run_dir] = wait_for(lambda: list(tmp_path.glob("*-steady-*")), timeout=30)
    strike(run_dir, chance, victim)
    code = process.wait(timeout=60)
    wait_for(lambda: not any(job_processes(run_dir).values()), timeout=15)
    if code != 0:
        done = dto("resume", run_dir.name, "--run-root", tmp_path)
        assert done.returncode == 0, log.read_text()[-2000:] + done.stderr[-2000:]
    assert weights(out) == unharmed
