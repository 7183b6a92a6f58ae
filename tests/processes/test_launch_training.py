"""`launch_training.sh --config FILE` trains as the file says, and tells what it chose and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples.tiny_gpt import TinyGPT
from tests.helpers import EXAMPLES, REPOSITORY

pytestmark = [pytest.mark.process, pytest.mark.ranks, pytest.mark.timeout(240)]

SCRIPT = REPOSITORY / "scripts" / "launch_training.sh"
TINY = f"""\
model: transformer
batch_size: 8
samples: 96
lr: 0.01
sharding_rules: {EXAMPLES / "sharding.yaml"}
model_options: {{context: 16, width: 16, heads: 2}}
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def launch(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    [line] = done.stderr.splitlines()
    assert done.stdout == ""
    return line


# ranks, pipeline, ZeRO, pattern, sharding: what each comes to
TRAININGS = {
    "4 true true ring auto": [
        "2 stages of layers",
        "ZeRO-1: optimizer state is cut over 2 ranks",
        "ring -> not used",
        "auto -> equal numbers of parameters: stage 0",
        "strategy zero1+pipeline on a mesh of dp 2 x pp 2 x tp 1",
    ],
    "4 true false tree manual": [
        "false -> each copy of the model has all of its optimizer state",
        "gradients are averaged over 2 ranks by a tree all-reduce",
        "manual -> as the rules say: stage 0",
        "strategy ddp+pipeline on a mesh of dp 2 x pp 2 x tp 1",
    ],
    "2 false true tree manual": [
        "ZeRO-2: gradients and optimizer state are cut over 2 ranks",
        "tree -> not used",
        "manual -> as the rules say: the rest",
        "strategy zero2 on a mesh of dp 2 x pp 1 x tp 1",
    ],
    "2 false false ring auto": [
        "2 processes on the CPU",
        "gradients are averaged over 2 ranks by a ring all-reduce",
        "auto -> nothing of the model is cut",
        "16 samples a step, 8 for each of 2 copies",
    ],
}


def losses(text: str) -> list[float]:
    """The mean loss of the first epoch and of the last."""
    found = re.search(r"loss (\d+\.\d+) to (\d+\.\d+)", text)
    assert found, text
    return [float(found[1]), float(found[2])]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of one process that was started by hand, with the same global batch."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "c.yaml").write_text(TINY)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train.py", "--config", "c.yaml", "--batch-size", "16"],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return losses(done.stdout)


@pytest.mark.process
@pytest.mark.parametrize("settings", TRAININGS)
def test_each_setting_trains_like_one_process_and_says_why(
    settings: str, alone: list[float], tmp_path: Path
) -> None:
    ranks, pipeline, zero, pattern, sharding = settings.split()
    config = tmp_path / "my config.yaml"
    config.write_text(
        f"{TINY}num_gpus: {ranks}\npipeline_parallelism: {pipeline}\nzero_redundancy: {zero}\n"
        f"communication_pattern: {pattern}\nsharding_strategy: {sharding}\n"
    )
    text = launch("--config", config.name, cwd=tmp_path).stdout
    for words in TRAININGS[settings]:
        assert words in text
    first, last = losses(text)
    assert last < first and [first, last] == pytest.approx(alone, abs=2e-3)
    [final] = tmp_path.glob("runs/*/final_model_*.pt")
    weights = torch.load(final, weights_only=True)["model_state_dict"]
    TinyGPT(context=16, width=16, heads=2, layers=4).load_state_dict(weights)  # tied ones, too
    assert "\n[1]" not in text  # rank 0 alone speaks


def test_a_setting_that_is_not_known_ends_with_2_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: mlp\npipline_parallelism: true\n")
    line = one_line(launch("--config", "c.yaml", cwd=tmp_path, code=2))
    assert "unknown setting 'pipline_parallelism': did you mean pipeline_parallelism?" in line
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]  # no run was begun


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--epoch", "did you mean epochs?"),
        ("--model-options", "model_options belongs into the file"),
    ],
)
def test_a_flag_that_is_not_known_ends_with_2_and_one_line(
    flag: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("model: mlp\n")
    line = one_line(launch("--config", "c.yaml", flag, "3", cwd=tmp_path, code=2))
    assert line == f"train.py: {flag} is no setting for here: {words}"


def test_rules_that_do_not_fit_the_model_are_found_before_ranks_start(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("units: ['blocks.*']")
    text = "zero_redundancy: 3\nnum_gpus: 2\nsharding_strategy: manual\nsharding_rules: r.yaml"
    (tmp_path / "c.yaml").write_text(text)
    done = launch("--config", "c.yaml", cwd=tmp_path, code=2)
    assert "no module of TinyGPT with parameters matches the unit 'blocks.*'" in one_line(done)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: launch_training.sh --config FILE"),
        (["config.yaml"], "config.yaml needs a value"),
        (["config.yaml", "more"], "usage: launch_training.sh --config FILE"),
        (["--config"], "--config needs a value"),
        (["--config", "c.yaml", "-N", "0"], "-N is '0': give a number of nodes"),
        (["--config", "c.yaml", "-g", "1"], "-g asks SLURM for GPUs: add --slurm"),
        (["--config", "none.yaml"], "none.yaml: No such file"),
        (["--config", "c.yaml", "--epochs", "no"], "--epochs is 'no'"),
        (["--config", "c.yaml", "-N", "2"], "1 ranks cannot be spread evenly over 2 nodes"),
    ],
)
def test_what_was_typed_wrongly_is_one_line(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("model: transformer\n")
    assert words in one_line(launch(*arguments, cwd=tmp_path, code=2))


def test_help_tells_every_option(tmp_path: Path) -> None:
    text = launch("--help", cwd=tmp_path).stdout
    for option in ("--config", "--slurm", "-N", "-g", "-n", "SETTINGS"):
        assert option in text
