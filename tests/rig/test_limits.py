"""Time limits, stops and lost nodes: the job goes on by itself, no step lost or repeated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dto.runs.paths import find_run
from tests.helpers import PROGRAMS, dto, wait_for
from tests.rig.rig import Rig
from tests.rig.test_submit import ended, state, submit

pytestmark = pytest.mark.rig
SAMPLES = 100


def read_samples(out: Path) -> Counter[int]:
    """How often each sample was read, over all attempts and ranks."""
    lines = [line for file in out.glob("seen-*") for line in file.read_text().split()]
    return Counter(map(int, lines))


@pytest.mark.timeout(900)
def test_a_job_longer_than_its_limit_requeues_itself_until_it_is_done(
    rig: Rig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # 100 samples in global batches of 8 are 13 steps an epoch; 20 epochs of 13 steps of 0.925 s
    # are 240 s of work, which a limit of 2 minutes cuts twice.
    run = submit(rig, tmp_path, "-N", "3", "-t", "2", PROGRAMS / "steady.py", out, "--epochs", "20",
                 "--every", "15m", "--pace", "0.925")["run"]  # fmt: skip
    status = ended(rig, tmp_path, run, timeout=840)
    logs = dto("logs", run, "--run-root", tmp_path, env=rig.env()).stdout[-3000:]
    assert status["state"] == "COMPLETED", logs
    assert status["attempt"] == 3, "the limit of 2 minutes cuts 240 s twice"
    assert read_samples(out) == Counter({sample: 20 for sample in range(SAMPLES)})


@pytest.mark.timeout(300)
def test_a_stopped_job_stays_stopped_and_resumes_on_two_nodes(rig: Rig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = submit(rig, tmp_path, "-N", "3", PROGRAMS / "steady.py", out, "--epochs", "4",
                 "--every", "15m", "--pace", "0.4")["run"]  # fmt: skip
    wait_for(lambda: (state(rig, tmp_path, run)["step"] or 0) >= 5, timeout=90, every=0.5)  # type: ignore[operator]
    assert dto("stop", run, "--run-root", tmp_path, env=rig.env()).returncode == 0
    status = ended(rig, tmp_path, run, timeout=60)
    assert (status["state"], status["exit_code"]) == ("STOPPED", 85)
    wait_for(lambda: not rig.run("squeue", "-h").stdout.strip(), timeout=30)
    done = dto("resume", run, "-N", "2", "--run-root", tmp_path, env=rig.env())
    assert done.returncode == 0, done.stderr
    assert ended(rig, tmp_path, run, timeout=120)["state"] == "COMPLETED"
    assert state(rig, tmp_path, run)["world"] == 2
    assert read_samples(out) == Counter({sample: 4 for sample in range(SAMPLES)})


@pytest.mark.timeout(300)
def test_a_job_whose_node_dies_is_requeued_and_finishes(rig: Rig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = submit(rig, tmp_path, "-N", "2", PROGRAMS / "steady.py", out, "--epochs", "4",
                 "--every", "3steps", "--pace", "0.3")["run"]  # fmt: skip
    wait_for(lambda: (state(rig, tmp_path, run)["step"] or 0) >= 6, timeout=90, every=0.5)  # type: ignore[operator]
    node = str(state(rig, tmp_path, run)["nodes"][-1])  # type: ignore[index]
    rig.lose_node(node)
    try:
        status = ended(rig, tmp_path, run, timeout=200)
    finally:
        rig.start_node(node)
    assert status["state"] == "COMPLETED", find_run(tmp_path, run)
    assert int(str(status["attempt"])) >= 2
