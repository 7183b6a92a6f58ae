"""The rig itself: it is a cluster of three nodes, and it leaves nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.rig.rig import Rig, temporary_rig


def _processes_of(directory: Path) -> list[str]:
    """Command lines of every living process that the rig in this directory started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stepd = (entry / "comm").read_text() == "slurmstepd\n"
            links = {os.readlink(link) for link in (entry / "fd").iterdir()} if stepd else set()
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in text or any(link.startswith(str(directory)) for link in links):
            found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def test_a_step_runs_on_three_nodes(rig: Rig) -> None:
    done = rig.run("srun", "-N3", "-l", "sh", "-c", "echo $SLURMD_NODENAME $SLURM_NODEID")
    assert sorted(done.stdout.splitlines()) == ["0: n1 0", "1: n2 1", "2: n3 2"], done.stderr


def test_a_step_gets_the_gpus_that_it_asks_for(rig: Rig) -> None:
    done = rig.run("srun", "--gpus-per-node=2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert done.stdout == "0,1\n", done.stderr


def test_a_requeued_job_starts_again_within_seconds(rig: Rig, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\necho restarts ${SLURM_RESTART_COUNT:-0}\n"
        "[[ ${SLURM_RESTART_COUNT:-0} == 1 ]] || { scontrol requeue $SLURM_JOB_ID; sleep 60; }\n"
    )
    output = tmp_path / "out.txt"
    done = rig.run("sbatch", "--parsable", "--open-mode=append", f"--output={output}", str(script))
    began = time.monotonic()
    assert rig.wait_for_state(done.stdout.strip(), "COMPLETED") == "COMPLETED"
    assert time.monotonic() - began < 30
    assert [line for line in output.read_text().splitlines() if line.startswith("restarts")] == [
        "restarts 0",
        "restarts 1",
    ]


def test_a_lost_node_takes_its_processes_with_it_and_can_come_back(tmp_path: Path) -> None:
    with temporary_rig(nodes=2) as rig:
        job = rig.submit("--no-kill", "--nodes=2", wrap="srun --no-kill sleep 1000")
        rig.wait_for_state(job, "RUNNING")
        rig.lose_node("n2")
        assert not [line for line in _processes_of(rig.directory) if "-N n2" in line]
        rig.start_node("n2")
        assert [line for line in _processes_of(rig.directory) if "-N n2" in line]


def test_teardown_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    with temporary_rig() as rig:
        rig.wait_for_state(rig.submit("--nodes=3", wrap="srun sleep 1000 & wait"), "RUNNING")
        directory = rig.directory
        assert len(_processes_of(directory)) > 4
    assert _processes_of(directory) == []
    assert not directory.exists()
