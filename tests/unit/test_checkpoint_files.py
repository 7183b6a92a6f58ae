"""Files in layouts that users know, final models, and copies in Amazon S3."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dto.checkpoint.bucket import Bucket, parse_bucket
from dto.checkpoint.final import load_final, save_final
from dto.checkpoint.legacy import (
    export_epoch,
    export_snapshot,
    export_worker,
    load_legacy,
    read_legacy,
)
from dto.checkpoint.manifest import Manifest
from dto.checkpoint.store import Store
from dto.errors import CheckpointError, DtoError, UsageError


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_run_folder_has_the_known_files_and_keys_and_comes_back(tmp_path: Path) -> None:
    model, optimizer = trained()
    export_epoch(tmp_path, 4, model, optimizer, {"loss": 0.5}, world=2)
    export_epoch(tmp_path, 5, model, optimizer, {"loss": 0.25}, world=2, is_best=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best_checkpoint.pt",
        "checkpoint_epoch_0004.pt",
        "checkpoint_epoch_0005.pt",
        "latest_checkpoint.pt",
        "training_metadata.json",
    ]
    keys = torch.load(tmp_path / "latest_checkpoint.pt", weights_only=True).keys()
    assert " ".join(keys) == (
        "epoch model_state_dict optimizer_state_dict metrics horovod_size timestamp"
    )
    other, again = trained()
    found = load_legacy(tmp_path / "latest_checkpoint.pt", other, again)
    assert (found.layout, found.epochs_done, found.metrics) == ("run-folder", 6, {"loss": 0.25})
    assert torch.equal(other.weight, model.weight)
    assert json.loads((tmp_path / "training_metadata.json").read_text())["epoch"] == 5


def test_a_snapshot_from_elsewhere_is_read(tmp_path: Path) -> None:
    model, optimizer = trained()
    old = {"MODEL_STATE": nn.DataParallel(model).state_dict(), "EPOCHS_RUN": 10}
    torch.save(old, tmp_path / "snapshot.pt")
    other, _ = trained()
    found = load_legacy(tmp_path / "snapshot.pt", other, optimizer)
    assert found.epochs_done == 10 and torch.equal(other.weight, model.weight)
    export_snapshot(tmp_path / "snapshot.pt", model, 11, optimizer)
    again = read_legacy(tmp_path / "snapshot.pt")
    assert again.epochs_done == 11 and again.optimizer is not None


def test_a_worker_file_has_the_known_keys(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = tmp_path / "checkpoints" / "worker.pt"
    export_worker(path, model, optimizer, epoch=2, global_step=40)
    keys = torch.load(path, weights_only=True).keys()
    assert list(keys) == ["model_state", "optimizer_state", "epoch", "global_step"]
    found = load_legacy(path, *trained())
    assert (found.epochs_done, found.step) == (2, 40)


def test_files_that_cannot_be_trusted_are_refused_in_one_line(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = tmp_path / "x.pt"
    with pytest.raises(CheckpointError, match="there is no checkpoint file"):
        read_legacy(path)
    torch.save({"model_state": {"w": Path("/")}}, path)
    with pytest.raises(CheckpointError, match="code from a checkpoint is never run"):
        read_legacy(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(CheckpointError, match="not a known checkpoint"):
        read_legacy(path)
    export_worker(path, model, optimizer, 1, 1)
    with pytest.raises(CheckpointError, match="does not fit this model") as caught:
        load_legacy(path, nn.Linear(4, 2))
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match="damaged"):
        read_legacy(path)


def test_a_final_model_is_saved_under_a_new_name_each_time(tmp_path: Path) -> None:
    model, optimizer = trained()
    first = save_final(tmp_path, model, optimizer, {"loss": 0.1})
    second = save_final(tmp_path, model)
    assert first != second and first.name.startswith("final_model_")
    other, _ = trained()
    rest = load_final(first, other)
    assert rest["final_metrics"] == {"loss": 0.1} and torch.equal(other.weight, model.weight)


def test_a_bucket_is_a_name_or_an_arn() -> None:
    assert parse_bucket("my-bucket") == ("my-bucket", "", "aws")
    assert parse_bucket("arn:aws:s3:::my-bucket/a/b/") == ("my-bucket", "a/b/", "aws")
    assert parse_bucket("arn:aws-us-gov:s3:::gov") == ("gov", "", "aws-us-gov")
    with pytest.raises(UsageError, match="is no bucket"):
        parse_bucket("arn:aws:sns:::topic")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    moto = importlib.import_module("moto")
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="weights")
        yield client


@pytest.mark.parametrize("where", ["weights", "arn:aws:s3:::weights/team"])
def test_a_checkpoint_goes_to_the_bucket_and_comes_back_whole(
    client: Any, where: str, tmp_path: Path
) -> None:
    store, tensor = Store(tmp_path / "run" / "checkpoints"), torch.randn(4)
    commit = store.save(
        Manifest(7, None, 0, 0, 1, "ddp", 8, {"samples": 56}, [], {}, {}), {"model/w": tensor}
    )
    bucket = Bucket(where)
    key = bucket.upload_commit(commit, "run-a")
    assert key == "checkpoints/run-a/step-7.a0g0"
    assert bucket.list_checkpoints() == bucket.list_checkpoints("run-a") == [key]
    assert bucket.list_checkpoints("run-b") == []
    path = bucket.download(key, tmp_path / "back" / "step-7.a0g0")
    back = Store(path.parent)
    assert torch.equal(back.load(back.chain()[0])[1]["model/w"], tensor)

    client.put_object(Bucket="weights", Key=f"{bucket.prefix}{key}/rank-0.safetensors", Body=b"x")
    with pytest.raises(CheckpointError, match="damaged: rank-0.safetensors has 1 bytes"):
        bucket.download(key, tmp_path / "again" / "step-7.a0g0")
    assert list((tmp_path / "again").iterdir()) == []


def test_final_models_and_errors_of_a_bucket(client: Any, tmp_path: Path) -> None:
    model, _ = trained()
    path = save_final(tmp_path, model)
    key = Bucket("weights").upload_final(path)
    assert key == f"final_models/{path.name}"
    other, _ = trained()
    load_final(Bucket("weights").download(key, tmp_path / "copy.pt"), other)
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(DtoError, match="holds no checkpoints/none"):
        Bucket("weights").download("checkpoints/none", tmp_path / "none")
    with pytest.raises(DtoError, match="bucket absent: cannot list: .*NoSuchBucket"):
        Bucket("absent").list_checkpoints()
