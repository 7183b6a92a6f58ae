"""A configuration file trains on a real Slurm."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, dto
from tests.rig.rig import Rig
from tests.rig.test_submit import ended

pytestmark = [pytest.mark.rig, pytest.mark.timeout(150)]

SCRIPT = REPOSITORY / "scripts" / "launch_training.sh"
TINY = """\
model: transformer
batch_size: 8
num_gpus: 4
pipeline_parallelism: true
zero_redundancy: true
samples: 96
lr: 0.01
model_options: {context: 16, width: 16, heads: 2}
"""


def launch(
    rig: Rig, cwd: Path, *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SCRIPT, "--config", "c.yaml", *arguments],
        env={**rig.env(), "DTO_RUN_ROOT": str(cwd), "PYTHONPATH": str(REPOSITORY)},
        cwd=cwd, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def test_a_configuration_file_trains_on_two_nodes(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TINY)
    done = launch(rig, tmp_path, "-N", "2", "--epochs", "3")
    assert "4 ranks on 2 nodes, with 2 GPUs of each" in done.stderr  # the rig's are counterfeit
    [run_dir] = tmp_path.glob("*-train-*")
    status = ended(rig, tmp_path, run_dir.name)
    logs = dto("logs", run_dir.name, "--run-root", tmp_path, env=rig.env()).stdout
    assert (status["state"], status["world"]) == ("COMPLETED", 4), logs
    assert "strategy zero1+pipeline on a mesh of dp 2 x pp 2 x tp 1" in logs
    assert "zero_redundancy: true -> ZeRO-1" in logs and "epoch 3/3" in logs
    found = re.search(r"loss (\d+\.\d+) to (\d+\.\d+)", logs)
    assert found and float(found[2]) < float(found[1])


def test_more_gpus_than_nodes_have_are_refused_by_slurm_in_one_line(
    rig: Rig, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(TINY)
    done = launch(rig, tmp_path, "--slurm", "-g", "9", code=4)
    assert len(done.stderr.splitlines()) == 2 and "with 9 GPUs" in done.stderr  # ours and SLURM's
    assert rig.run("squeue", "-h").stdout == ""
