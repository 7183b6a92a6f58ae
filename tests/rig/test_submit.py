"""The same script on a real Slurm: submitted, joined, watched, cancelled."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers import EXAMPLES, PROGRAMS, REPOSITORY, dto, dto_argv, wait_for
from tests.rig.rig import Rig

pytestmark = [pytest.mark.rig, pytest.mark.timeout(150)]


def submit(rig: Rig, root: Path, *args: str | Path) -> dict[str, str]:
    """Submit by `dto submit --json` and return what it printed."""
    done = dto("submit", "--json", "--run-root", root, *args, env=rig.env(), cwd=root)
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def state(rig: Rig, root: Path, run: str) -> dict[str, object]:
    done = dto("status", run, "--run-root", root, "--json", env=rig.env())
    assert done.returncode in (0, 1), done.stderr  # 1: the run failed
    value: dict[str, object] = json.loads(done.stdout)
    return value


def ended(rig: Rig, root: Path, run: str, timeout: float = 90) -> dict[str, object]:
    """Wait for a run's end and return its status."""
    done = ("COMPLETED", "FAILED", "STOPPED", "CANCELLED")
    wait_for(lambda: state(rig, root, run)["state"] in done, timeout=timeout, every=2)
    return state(rig, root, run)


@pytest.mark.parametrize(("nodes", "per_node"), [(3, 1), (2, 2)])
def test_every_rank_joins_one_world(rig: Rig, tmp_path: Path, nodes: int, per_node: int) -> None:
    script = REPOSITORY / "scripts" / "submit_job.sh"
    done = subprocess.run(
        [script, "--run-root", tmp_path, "-N", str(nodes), "-n", str(per_node),
         EXAMPLES / "simple_net.py", "--epochs", "2"],
        env=rig.env(), cwd=tmp_path, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [run_dir] = tmp_path.glob("*-simple_net-*")
    job_id = re.search(r"job\D*(\d+)", done.stdout)
    assert run_dir.name in done.stdout and job_id is not None
    assert str(run_dir / f"slurm-{job_id[1]}.out") in done.stdout
    status = ended(rig, tmp_path, run_dir.name)
    logs = dto("logs", run_dir.name, "--run-root", tmp_path, env=rig.env()).stdout
    assert status["state"] == "COMPLETED", logs
    world = nodes * per_node
    assert status["world"] == world
    for rank in range(world):
        assert f"rank {rank}/{world}" in logs
    one = dto("logs", job_id[1], "--rank", str(world - 1), "--run-root", tmp_path, env=rig.env())
    assert f"rank {world - 1}/{world}" in one.stdout and f"rank 0/{world}" not in one.stdout


def test_the_rank_that_exits_three_is_named(rig: Rig, tmp_path: Path) -> None:
    run = submit(rig, tmp_path, "-N", "3", PROGRAMS / "world.py", "exit", "3", "1")["run"]
    status = ended(rig, tmp_path, run)
    assert (status["state"], status["exit_code"]) == ("FAILED", 3)
    text = dto("status", run, "--run-root", tmp_path, env=rig.env()).stdout
    assert "rank 1" in text and "exited 3" in text and "n2" in text


def test_cancel_ends_a_running_job_and_a_queued_one(rig: Rig, tmp_path: Path) -> None:
    running = submit(rig, tmp_path, "-N", "3", "-c", "4", PROGRAMS / "world.py", "wait")["run"]
    queued = submit(rig, tmp_path, "-N", "3", "-c", "4", PROGRAMS / "world.py", "wait")["run"]
    wait_for(lambda: "sum 3" in dto("logs", running, "--run-root", tmp_path).stdout, timeout=60)
    assert state(rig, tmp_path, running)["state"] == "RUNNING"
    assert state(rig, tmp_path, queued)["state"] == "QUEUED"
    for run in (queued, running):
        done = dto("cancel", run, "--run-root", tmp_path, env=rig.env())
        assert done.returncode == 0, done.stderr
        assert ended(rig, tmp_path, run, timeout=30)["state"] == "CANCELLED"
    wait_for(lambda: not rig.run("squeue", "-h").stdout.strip(), timeout=30)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["-p", "nowhere"], 4, "partition"),
        (["-N", "9"], 4, "node"),
        (["-N", "0"], 2, "nodes"),
        (["--name", "a b"], 2, "name"),
        (["--name", "a\nb"], 2, "name"),
        (["--sbatch", "nodes=4"], 2, "nodes"),
    ],
)
def test_what_cannot_be_submitted_is_one_line_and_leaves_no_job(
    rig: Rig, tmp_path: Path, args: list[str], code: int, words: str
) -> None:
    done = dto("submit", "--run-root", tmp_path / "runs", *args, PROGRAMS / "world.py",
               env=rig.env(), cwd=tmp_path)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or code == 2
    assert rig.run("squeue", "-h").stdout == ""


def test_a_missing_interpreter_is_named_with_its_node(rig: Rig, tmp_path: Path) -> None:
    absent = tmp_path / "no" / "python"
    run = submit(rig, tmp_path, "--python", absent, PROGRAMS / "world.py")["run"]
    status = ended(rig, tmp_path, run)
    assert status["state"] == "FAILED"
    text = dto("status", run, "--run-root", tmp_path, env=rig.env()).stdout
    assert str(absent) in text


def test_dto_run_spreads_over_the_allocation_it_is_started_in(rig: Rig, tmp_path: Path) -> None:
    done = subprocess.run(
        ["salloc", "-N", "2", "--ntasks-per-node=1", "--cpus-per-task=1",
         *dto_argv("run", "-n", "1", "--run-root", tmp_path, PROGRAMS / "world.py")],
        env=rig.env(), cwd=tmp_path, text=True, capture_output=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [run_dir] = tmp_path.glob("*-world-*")
    logs = dto("logs", run_dir.name, "--run-root", tmp_path).stdout
    assert "rank 0 of 2 on n1 sum 2" in logs and "rank 1 of 2 on n2 sum 2" in logs
