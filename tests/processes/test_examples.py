"""Every example runs as its first lines say, on tiny data, and learns."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cifar_files import write_tiny_cifar
from tests.helpers import EXAMPLES, REPOSITORY

BUCKET = "arn:aws:s3:::weights"


def run(
    *command: str | Path, cwd: Path, code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user in `cwd`, with the repository importable."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def everything(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def losses(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"loss (\d+\.\d+)", text)]


def test_tiny_gpt_learns_english_on_two_ranks(tmp_path: Path) -> None:
    options = (
        "--text-bytes",
        "40000",
        "--batch-size",
        "16",
        "--epochs",
        "3",
        "--width",
        "32",
        "--layers",
        "1",
    )
    done = run("-m", "dto.cli", "run", "-n", "2", EXAMPLES / "tiny_gpt.py", *options, cwd=tmp_path)
    found = re.search(r"held-out loss (\d+\.\d+)", everything(done))
    assert found and float(found[1]) < 3.3  # 5.5 is a guess among 256 bytes
    assert "it writes" in everything(done)


SCENARIOS = {
    "main_simple": r"accuracy 0\.[6-9]",
    "main_with_resume": r"epochs \[0, 1, 2, 3\], the last 2",
    "main_best_checkpoint_only": r"best loss \d\.\d+ in \S+step-\d+",
    "main_custom": r"loss [01]\.\d+",
    "manual_checkpoint_example": "the same weights",
}


def test_the_scenarios_without_a_bucket_run_under_plain_python(tmp_path: Path) -> None:
    done = run(EXAMPLES / "framework_example.py", cwd=tmp_path)
    for name, words in SCENARIOS.items():
        assert re.search(f"^{name}: .*{words}", done.stdout, re.M), (name, done.stdout)


def test_the_scenarios_without_a_bucket_run_on_two_ranks(tmp_path: Path) -> None:
    done = run("-m", "dto.cli", "run", "-n", "2", EXAMPLES / "framework_example.py", cwd=tmp_path)
    for name, words in SCENARIOS.items():
        assert re.search(f"{name}: .*{words}", everything(done)), (name, everything(done))


@pytest.mark.parametrize("name", ["main_with_s3_backup", "s3_download_example"])
def test_a_scenario_that_needs_a_bucket_says_so_in_one_line(name: str, tmp_path: Path) -> None:
    done = run(EXAMPLES / "framework_example.py", name, cwd=tmp_path, code=2)
    assert done.stderr.splitlines()[-1].endswith(
        f"{name} needs a bucket: add --bucket arn:aws:s3:::NAME"
    )


@pytest.fixture
def bucket_server() -> Iterator[dict[str, str]]:
    """Environment of a user whose Amazon S3 is a server on this machine."""
    server = importlib.import_module("moto.server")
    import boto3

    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL"], region_name="us-east-1",
        aws_access_key_id="test", aws_secret_access_key="test",
    ).create_bucket(Bucket="weights")  # fmt: skip
    yield env
    running.stop()


def test_checkpoints_go_to_a_bucket_and_come_back(
    bucket_server: dict[str, str], tmp_path: Path
) -> None:
    script = (EXAMPLES / "framework_example.py", "main_with_s3_backup", "s3_download_example")
    done = run(*script, "--bucket", BUCKET, "--epochs", "2", cwd=tmp_path, env=bucket_server)
    assert f"main_with_s3_backup: 2 checkpoints in {BUCKET}" in done.stdout
    assert re.search(r"s3_download_example: checkpoints/\S+ is now in (\S+)", done.stdout)


LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"),
    "dto": ("-m", "dto.cli", "run", "-n", "2"),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_multigpu_multi_node_learns_and_goes_on_from_its_snapshot(
    launcher: str, tmp_path: Path
) -> None:
    script = (*LAUNCHERS[launcher], EXAMPLES / "multigpu_multi_node.py")
    first = run(*script, "4", "2", "--batch_size", "64", cwd=tmp_path)
    found = losses(everything(first))
    assert len(found) == 4 and found[-1] < found[0] / 3
    snapshot = torch.load(tmp_path / "snapshot.pt", weights_only=True)
    assert snapshot["EPOCHS_RUN"] == 4 and "MODEL_STATE" in snapshot
    again = run(*script, "5", "2", "--batch_size", "64", cwd=tmp_path)
    assert "snapshot.pt holds 4 finished epochs" in everything(again)
    assert "epoch 5/5" in everything(again) and "epoch 4/5" not in everything(again)
    assert losses(everything(again))[0] < found[-1]


def test_local_training_runs_with_and_without_dto(tmp_path: Path) -> None:
    script = EXAMPLES / "local_training.py"
    for command in ((script,), ("-m", "dto.cli", "run", "-n", "2", script)):
        text = everything(run(*command, cwd=tmp_path))
        found = re.search(r"accuracy (0\.\d+)", text)
        assert found and float(found[1]) > 0.85
        assert "of 1437 samples" in text


def test_every_kind_of_data_is_shared_out_without_loss(tmp_path: Path) -> None:
    script = EXAMPLES / "data_loading_example.py"
    text = everything(run("-m", "dto.cli", "run", "-n", "2", script, cwd=tmp_path))
    for kind in ("in memory", "from a file", "as a stream"):
        assert f"{kind}: 101 of 101 on all 2 workers, 101 different ones" in text
    assert "weighted: 101 of 101 on all 2 workers" in text


LOCAL = ("-m", "scripts.launch_local", "--width", "4", "--batch_size", "16", "--lr", "0.05")


def test_launch_local_goes_on_from_the_file_it_was_told(tmp_path: Path) -> None:
    write_tiny_cifar(tmp_path / "data", images_per_file=32)
    path = ("--checkpoint_path", "mine/here.pt")
    first = run(*LOCAL, "--epochs", "2", *path, cwd=tmp_path)
    assert "--k_ratio 0.1 has no effect" in first.stderr
    saved = torch.load(tmp_path / "mine" / "here.pt", weights_only=True)
    assert list(saved) == ["model_state", "optimizer_state", "epoch", "global_step"]
    assert (saved["epoch"], saved["global_step"]) == (2, 10)  # 160 images in tens of 16
    second = run(*LOCAL, "--epochs", "3", *path, "--k_ratio", "1", cwd=tmp_path)
    text = everything(second)
    assert "holds 2 finished epochs: going on with epoch 3" in text and "k_ratio" not in text
    again = torch.load(tmp_path / "mine" / "here.pt", weights_only=True)
    assert (again["epoch"], again["global_step"]) == (3, 15)
    assert not (tmp_path / "checkpoints" / "worker.pt").exists()
    run(*LOCAL, "--epochs", "3", *path, cwd=tmp_path)  # nothing left to do


@pytest.mark.parametrize("workers", [1, 4])
def test_launch_local_ends_with_any_number_of_workers(workers: int, tmp_path: Path) -> None:
    write_tiny_cifar(tmp_path / "data", images_per_file=16)
    done = run(*LOCAL, "--epochs", "1", "--num_workers", str(workers), cwd=tmp_path)
    assert "held-out accuracy" in everything(done)
    assert (tmp_path / "checkpoints" / "worker.pt").is_file()


def test_launch_local_without_data_says_what_to_download_where(tmp_path: Path) -> None:
    done = run("-m", "scripts.launch_local", cwd=tmp_path, code=1)
    assert done.stderr.count("\n") == 1
    assert "cifar-10-binary.tar.gz" in done.stderr and "-C data" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_launch_local_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    write_tiny_cifar(tmp_path / "data", images_per_file=2)
    done = run("-m", "scripts.launch_local", "--device", "cuda", cwd=tmp_path, code=1)
    assert done.stderr == "launch_local: error: torch finds no GPU here: use --device cpu\n"


@pytest.mark.parametrize(
    "options", [("--k_ratio", "0"), ("--k_ratio", "1.5"), ("--num_workers", "0")]
)
def test_launch_local_refuses_what_cannot_be_meant(
    options: tuple[str, str], tmp_path: Path
) -> None:
    done = run("-m", "scripts.launch_local", *options, cwd=tmp_path, code=2)
    assert done.stderr.splitlines()[-1].startswith("python -m scripts.launch_local: error: --")
