"""Training that was cut anywhere and goes on ends with the same bits, history and rates."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dto
from dto.runtime import signals


class Cut(RuntimeError):
    """Stands for a crash in the middle of a step."""


@pytest.fixture(autouse=True)
def _own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook = sys.excepthook
    monkeypatch.setattr(signals, "_received", [])
    yield
    sys.excepthook = hook
    for number, handler in kept.items():
        signal.signal(number, handler)


class Training:
    """A small model with dropout, BatchNorm, Adam and a schedule: much state to lose."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.trainer = dto.DistributedTrainer(
            seed=3, run_dir=folder, verbose=False, global_batch_size=16, backend="gloo",
            **{"auto_scale_lr": True, "checkpoint_interval": 1, **options},
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(77, 6, generator=generator)
        self.data = TensorDataset(x, (x.sum(1) > 0).long())
        self.model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        self.validations = 0

    def fit(self, epochs: int = 4, cut: int = 0, stop: int = 0, stop_validating: int = 0) -> Any:
        def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            step = self.trainer.session.step
            if self.model.training and step == stop and stop:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.model.training and step == cut and cut:
                raise Cut
            if not self.model.training:
                self.validations += 1
                torch.rand(1)  # validating draws, too
                if self.validations == stop_validating:
                    os.kill(os.getpid(), signal.SIGTERM)
            return nn.functional.cross_entropy(outputs, targets)

        return self.trainer.fit(
            self.model, DataLoader(self.data, batch_size=8, shuffle=True), self.optimizer,
            criterion, epochs, val_loader=DataLoader(self.data, batch_size=30),
            scheduler=self.scheduler, resume_from_checkpoint="auto",
        )  # fmt: skip


def same(left: Training, right: Training) -> bool:
    states = zip(left.model.state_dict().values(), right.model.state_dict().values(), strict=True)
    rates = [t.optimizer.param_groups[0]["lr"] for t in (left, right)]
    return all(torch.equal(a, b) for a, b in states) and rates[0] == rates[1]


def without_path(history: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in history.items() if name != "final_model_path"}


@pytest.fixture
def unbroken(tmp_path: Path) -> tuple[Training, dict[str, Any]]:
    training = Training(tmp_path / "unbroken")
    return training, training.fit()


@pytest.mark.parametrize("step", [1, 4, 5, 7, 10, 18])
def test_a_crash_and_a_stop_lose_nothing(
    tmp_path: Path, unbroken: tuple[Training, dict[str, Any]], step: int
) -> None:
    crashed = Training(tmp_path / "run", checkpoint_every="3steps")
    with pytest.raises(Cut):
        crashed.fit(cut=step)
    stopped = Training(tmp_path / "run", checkpoint_every="3steps")
    with pytest.raises(SystemExit) as ended:
        stopped.fit(stop=max(step, stopped.trainer.session.step) + 1 if step < 18 else 19)
    assert ended.value.code == 85
    signals._received.clear()
    last = Training(tmp_path / "run")
    history = last.fit()
    assert without_path(history) == without_path(unbroken[1])
    assert same(last, unbroken[0])
    assert Path(history["final_model_path"]).is_file()


def test_a_stop_during_validation_validates_again(
    tmp_path: Path, unbroken: tuple[Training, dict[str, Any]]
) -> None:
    stopped = Training(tmp_path / "run")
    with pytest.raises(SystemExit):
        stopped.fit(stop_validating=5)
    signals._received.clear()
    last = Training(tmp_path / "run")
    assert without_path(last.fit()) == without_path(unbroken[1])
    assert same(last, unbroken[0])


def test_a_finished_run_is_not_trained_again(
    tmp_path: Path, unbroken: tuple[Training, dict[str, Any]]
) -> None:
    again = Training(tmp_path / "unbroken")
    assert without_path(again.fit()) == without_path(unbroken[1])
    assert again.validations == 0
    assert same(again, unbroken[0])


def test_the_rate_is_scaled_once(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    training.fit(epochs=1)
    assert training.optimizer.param_groups[0]["lr"] == 0.02  # a global batch of 16, not 8
    training.fit(epochs=1)
    assert training.optimizer.param_groups[0]["lr"] == 0.01  # the schedule's second epoch
    again = Training(tmp_path / "run")
    again.fit(epochs=1)
    assert again.trainer.session.lr_factor == 2.0


def test_two_fits_in_one_script_are_resumed_each_in_its_place(tmp_path: Path) -> None:
    def both(folder: Path, cut: int = 0) -> tuple[Training, list[Any]]:
        training = Training(folder, checkpoint_every="2steps")
        return training, [training.fit(2), training.fit(3, cut=cut)]

    whole, histories = both(tmp_path / "whole")
    with pytest.raises(Cut):
        both(tmp_path / "run", cut=17)
    again, resumed = both(tmp_path / "run")
    assert [without_path(h) for h in resumed] == [without_path(h) for h in histories]
    assert same(again, whole)


def test_only_the_best_is_kept_when_asked(tmp_path: Path) -> None:
    training = Training(tmp_path / "run", save_best_only=True, keep_last_n_checkpoints=1)
    history = training.fit(epochs=4)
    store = training.trainer.session.keeper.store
    best = store.best()
    assert best is not None
    assert training.trainer.best_metric == min(history["val_loss"])
    assert [c.step for c in store.commits()] == [
        5 * (history["val_loss"].index(min(history["val_loss"])) + 1)
    ]


def test_interval_zero_saves_nothing_but_the_final_model(tmp_path: Path) -> None:
    training = Training(tmp_path / "run", checkpoint_interval=0)
    history = training.fit(epochs=2)
    assert training.trainer.session.keeper.store.commits() == []
    assert training.trainer.get_latest_checkpoint() is None
    fresh = Training(tmp_path / "other")
    training.trainer.load_final_model(history["final_model_path"], fresh.model)
    weights = zip(training.model.parameters(), fresh.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_a_loop_of_ones_own_skips_what_is_behind_it(tmp_path: Path) -> None:
    def loop(cut: int = 0) -> tuple[nn.Module, list[float]]:
        torch.manual_seed(0)
        x = torch.arange(20.0).reshape(20, 1)
        model: nn.Module = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.5), nn.Linear(3, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        raw = DataLoader(TensorDataset(x), batch_size=4, shuffle=True)
        model, optimizer, loader = dto.distribute(
            model, optimizer, raw, checkpoint_every="2steps", run_dir=folder, seed=1
        )
        seen: list[float] = []
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            for (batch,) in loader:
                seen += batch.flatten().tolist()
                if len(seen) == cut:
                    raise Cut
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
        return model, seen

    folder = tmp_path / "whole"
    whole, seen = loop()
    folder = tmp_path / "run"
    with pytest.raises(Cut):
        loop(cut=36)
    again, rest = loop()
    assert rest == seen[32:]
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)
    )


def test_checkpoints_by_hand(tmp_path: Path) -> None:
    training = Training(tmp_path / "run", checkpoint_interval=0)
    trainer = training.trainer
    model = trainer.prepare_model(training.model)
    paths = [
        trainer.save_checkpoint(epoch, model, training.optimizer, {"loss": 0.5}, is_best=epoch == 0)
        for epoch in range(2)
    ]
    assert paths[0] != paths[1]
    assert trainer.get_latest_checkpoint() == str(paths[1])
    found = trainer.load_checkpoint(paths[0] or "", model, training.optimizer)
    assert found["epoch"] == 1 and found["metrics"] == {"loss": 0.5}
    assert trainer.allreduce(torch.ones(2)).tolist() == [1.0, 1.0]
    assert (trainer.rank, trainer.size, trainer.local_rank) == (0, 1, 0)
