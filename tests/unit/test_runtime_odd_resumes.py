"""Resumes of what is seldom tried: odd schedules, streams, batches counted by hand, damage."""

from __future__ import annotations

import random
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import dto
from dto.checkpoint.store import Store
from dto.errors import CheckpointError
from dto.runtime.epochs import to_device


class Cut(RuntimeError):
    """Stands for a crash in the middle of a step."""


@pytest.fixture(autouse=True)
def _own_hook() -> Iterator[None]:
    hook = sys.excepthook
    yield
    sys.excepthook = hook


class Shuffled(IterableDataset[Any]):
    """A stream that shuffles itself with the global generator."""

    def __len__(self) -> int:
        return 30

    def __iter__(self) -> Iterator[Any]:
        order = list(range(30))
        random.shuffle(order)
        for index in order:
            yield torch.full((4,), index / 30), torch.full((4,), index / 60)


def train_by_hand(
    model: nn.Module, train_loader: Any, optimizer: Any, schedule: Any, crash: Any, **_: Any
) -> dict[str, float]:
    """Accumulates two batches a step, the last of an odd number alone."""
    for number, (x, y) in enumerate(train_loader):
        crash()
        nn.functional.mse_loss(model(x), y).backward()
        if (number + 1) % 2 == 0 or number + 1 == len(train_loader):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return {"loss": 0.0}


def train(folder: Path, data: Any, cut: int = 0, hidden: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(2)
    trainer = dto.DistributedTrainer(
        seed=3, run_dir=folder, verbose=False, checkpoint_every=2, checkpoint_interval=1
    )
    model = nn.Sequential(nn.Linear(4, hidden), nn.Dropout(0.2), nn.Linear(hidden, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=50)
    calls = [0]

    def crash() -> None:
        calls[0] += 1
        if calls[0] == cut:
            raise Cut

    trainer.fit(
        model, DataLoader(data, batch_size=4), optimizer, nn.MSELoss(), 3, train_by_hand,
        resume_from_checkpoint="auto", schedule=schedule, crash=crash,
        scheduler=torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]),
    )  # fmt: skip
    return [value.clone() for value in model.state_dict().values()]


def numbers(count: int = 27) -> TensorDataset:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x.roll(1, 1))


@pytest.mark.parametrize("cut", [7, 13, 15])
@pytest.mark.parametrize("data", [numbers(), Shuffled()], ids=["numbers", "stream"])
def test_hand_counted_batches_and_own_schedules_go_on(tmp_path: Path, data: Any, cut: int) -> None:
    whole = train(tmp_path / "whole", data)
    with pytest.raises(Cut):
        train(tmp_path / "cut", data, cut)
    random.seed(cut)  # whatever the new process has drawn before
    resumed = train(tmp_path / "cut", data)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_all_manifests_unreadable_is_an_error_not_a_new_beginning(tmp_path: Path) -> None:
    train(tmp_path, numbers())
    for manifest in tmp_path.glob("step-*/manifest.json"):
        manifest.write_text("{")
    with pytest.raises(CheckpointError, match="checkpoints in .* are damaged"):
        train(tmp_path, numbers())


def test_a_lost_manifest_and_other_data_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Cut):
        train(tmp_path, numbers(), cut=13)
    newest = Store(tmp_path).commits()[0]
    (newest.path / "manifest.json").unlink()
    train(tmp_path, numbers(31))
    assert f"{newest.name} is skipped: it has no manifest" in caplog.text
    assert "taken on 27 samples, and now there are 31 samples" in caplog.text


def test_another_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(tmp_path, numbers(), cut=13)
    with pytest.raises(CheckpointError, match=r"0\.weight has shape \(8, 4\)"):
        train(tmp_path, numbers(), hidden=9)


def test_named_tuples_stay_named() -> None:
    Pair = namedtuple("Pair", "left right")
    moved = to_device(Pair(torch.ones(1), 2), torch.device("cpu"))
    assert isinstance(moved, Pair) and moved.right == 2
