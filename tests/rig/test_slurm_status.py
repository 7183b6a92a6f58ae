"""scripts/slurm_status.sh on a head without accounting, and where nothing answers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.helpers import REPOSITORY
from tests.rig.rig import Rig

SCRIPT = str(REPOSITORY / "scripts" / "slurm_status.sh")


def test_it_tells_nodes_partitions_gpus_queue_and_recent_jobs(rig: Rig) -> None:
    done = rig.submit("--job-name=quick", wrap="true")
    rig.wait_for_state(done, "COMPLETED")
    held = rig.submit("--job-name=waits", "--gpus-per-node=1", wrap="sleep 60")
    rig.wait_for_state(held, "RUNNING")
    rig.run("scontrol", "update", "nodename=n3", "state=drain", "reason=dto: disk is full")
    try:
        said = rig.run(SCRIPT)
    finally:
        rig.run("scontrol", "update", "nodename=n3", "state=resume")
    assert said.returncode == 0, said.stderr
    head, *sections = said.stdout.split("\n\n")
    assert "cluster     rig" in head and "controller  " in head
    found = {text.splitlines()[0]: text for text in sections}
    assert list(found) == ["Partitions", "Nodes", "GPUs", "Queue", "Recent jobs"]
    assert "gpu*" in found["Partitions"]
    assert "drain" in found["Nodes"] and "dto: disk is full" in found["Nodes"]
    in_use = [line.split(maxsplit=1)[1] for line in found["GPUs"].splitlines()[1:]]
    assert sorted(in_use) == ["0 of 2 in use", "0 of 2 in use", "1 of 2 in use"]
    assert "waits" in found["Queue"] and "quick" not in found["Queue"]
    assert "quick" in found["Recent jobs"] and "COMPLETED" in found["Recent jobs"]


def test_a_controller_that_does_not_answer_is_one_line(rig: Rig, tmp_path: Path) -> None:
    config = Path(rig.env()["SLURM_CONF"]).read_text().splitlines()
    silent = tmp_path / "slurm.conf"
    kept = [line for line in config if not line.startswith("SlurmctldPort=")]
    silent.write_text("\n".join([*kept, "SlurmctldPort=1", "MessageTimeout=5", ""]))
    env = {**os.environ, "SLURM_CONF": str(silent)}
    said = subprocess.run([SCRIPT], env=env, text=True, capture_output=True, timeout=60)
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (3, "", 1)
    assert "does not answer" in said.stderr


def test_a_machine_without_slurm_is_one_line(tmp_path: Path) -> None:
    for program in ("bash", "sed", "timeout", "head"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    bash = str(shutil.which("bash"))
    env = {"PATH": str(tmp_path)}
    said = subprocess.run([bash, SCRIPT], env=env, text=True, capture_output=True, timeout=60)
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (3, "", 1)
    assert "no scontrol here" in said.stderr


def test_an_argument_that_it_does_not_know_is_usage() -> None:
    said = subprocess.run([SCRIPT, "--x"], text=True, capture_output=True, timeout=60)
    assert (said.returncode, said.stderr) == (2, "usage: slurm_status.sh\n")
