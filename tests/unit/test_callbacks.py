"""Callbacks hear of every moment, stop a fit, and go on with a resumed run as if unbroken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dto
from dto.errors import ConfigError, UsageError


class Cut(RuntimeError):
    """Stands for a crash."""


@pytest.fixture(autouse=True)
def _own_hook() -> Iterator[None]:
    hook = sys.excepthook
    yield
    sys.excepthook = hook


class Fit:
    """10 samples in batches of 4; `metrics` are what validation finds, epoch after epoch."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.trainer = dto.DistributedTrainer(
            seed=1, run_dir=folder, verbose=False, **{"checkpoint_interval": 1, **options}
        )
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
        self.loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)

    def __call__(self, epochs: int, *callbacks: object, **more: Any) -> dict[str, Any]:
        given = {"callbacks": list(callbacks), "resume_from_checkpoint": "auto", **more}
        criterion = nn.functional.mse_loss
        return self.trainer.fit(
            self.model, self.loader, self.optimizer, criterion, epochs, **given
        )


class Diary:
    """Writes down what it hears; no class of ours."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def on_fit_begin(self, trainer: Any) -> None:
        self.lines.append("begin")

    def on_step_end(self, trainer: Any, step: int, loss: float | None) -> None:
        self.lines.append((step, loss))

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
        self.lines.append((f"epoch {epoch}", metrics["train_loss"]))

    def on_fit_end(self, trainer: Any, history: dict[str, Any]) -> None:
        self.lines.append(("end", history["epochs"], Path(history["final_model_path"]).exists()))


class Grades(dto.Callback):
    """Gives each epoch the next of these as its "grade", and may crash after one."""

    def __init__(self, grades: list[float], crash: int | None = None) -> None:
        self.grades, self.crash = grades, crash

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        if epoch == self.crash:
            raise Cut

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
        metrics["grade"] = self.grades[epoch]


class Counter(dto.Callback):
    """Has a state that must survive."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, trainer: Any, step: int, loss: float | None) -> None:
        self.steps += 1
        assert self.steps == step

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def test_every_moment_is_told_in_its_order(tmp_path: Path) -> None:
    diary, fit = Diary(), Fit(tmp_path)
    history = fit(2, diary)
    words = [line if isinstance(line, str) else line[0] for line in diary.lines]
    assert words == ["begin", 1, 2, 3, "epoch 0", 4, 5, 6, "epoch 1", "end"]
    assert diary.lines[-1] == ("end", [0, 1], True)
    losses = [loss for _, loss in diary.lines[1:4]]
    mean = (4 * losses[0] + 4 * losses[1] + 2 * losses[2]) / 10
    assert mean == pytest.approx(history["train_loss"][0])


def test_steps_of_a_train_step_fn_are_told_without_a_loss(tmp_path: Path) -> None:
    def one_epoch(model: nn.Module, train_loader: Any, optimizer: Any, **_: Any) -> dict[str, Any]:
        for x, y in train_loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        return {"loss": 1.0}

    diary = Diary()
    Fit(tmp_path)(1, diary, train_step_fn=one_epoch)
    assert diary.lines[1:4] == [(1, None), (2, None), (3, None)]


def test_what_a_callback_raises_is_the_scripts_own(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        Fit(tmp_path)(2, Grades([], crash=0))


def test_a_callbacks_state_goes_on_after_a_crash(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        Fit(tmp_path)(3, Counter(), Grades([0] * 3, crash=2))
    counter = Counter()
    Fit(tmp_path)(3, counter, Grades([0] * 3))
    assert counter.steps == 9


def test_training_stops_once_nothing_improves(tmp_path: Path) -> None:
    grades = [5.0, 4.0, 4.5, 3.95, 4.2, 1.0]
    fit = Fit(tmp_path, checkpoint_interval=10)
    history = fit(6, Grades(grades), dto.EarlyStop("grade", patience=3, min_delta=0.1))
    assert history["epochs"] == [0, 1, 2, 3, 4]
    assert len(fit.trainer.session.keeper.store.commits()) == 1  # the last epoch is one
    best = dto.EarlyStop("grade", patience=1, mode="max")
    again = fit(6, Grades([1.0, 2.0, 2.0, 3.0]), best)  # the same trainer, another fit
    assert again["epochs"] == [0, 1, 2]
    assert (best.best, best.waited) == (-2.0, 1)


@pytest.mark.parametrize("crash", [1, 2, 3])
def test_patience_goes_on_where_a_run_was_cut(tmp_path: Path, crash: int) -> None:
    grades = [5.0, 4.0, 4.5, 4.2, 4.1, 4.0, 1.0]
    with pytest.raises(Cut):
        Fit(tmp_path)(9, Grades(grades, crash), dto.EarlyStop("grade", patience=3))
    resumed = Fit(tmp_path)(9, Grades(grades), dto.EarlyStop("grade", patience=3))
    assert resumed["epochs"] == [0, 1, 2, 3, 4]
    after = Fit(tmp_path)(9, Grades(grades), dto.EarlyStop("grade", patience=3))
    assert after["epochs"] == [0, 1, 2, 3, 4]  # it had ended
    longer = Fit(tmp_path)(9, Grades([*grades, 0, 0]), dto.EarlyStop("grade", patience=8))
    assert longer["epochs"] == list(range(9))


def test_a_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="waits for 'val_loss', and an epoch here has train_loss"):
        Fit(tmp_path)(2, dto.EarlyStop())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patience": 0}, "patience is 0"),
        ({"patience": 1.5}, "patience is 1.5"),
        ({"min_delta": -1}, "min_delta is -1"),
        ({"mode": "up"}, "mode is 'up': use min or max"),
    ],
)
def test_an_early_stop_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dto.EarlyStop(**options)


@pytest.mark.parametrize("given", [[3], [Diary], Diary()])
def test_what_is_no_callback_is_refused(tmp_path: Path, given: Any) -> None:
    with pytest.raises(UsageError, match="is no callback|give it a list"):
        Fit(tmp_path)(1, callbacks=given)


def test_a_schedule_of_steps_goes_on_after_a_crash(tmp_path: Path) -> None:
    def train(folder: Path, *callbacks: object) -> Fit:
        fit = Fit(folder, checkpoint_every=2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(fit.optimizer, 9)
        fit(3, *callbacks, scheduler=schedule, scheduler_every="step")
        assert schedule.last_epoch == 9
        return fit

    class Breaks(dto.Callback):
        def on_step_end(self, trainer: Any, step: int, loss: float | None) -> None:
            if step == 5:
                raise Cut

    whole = train(tmp_path / "whole")
    with pytest.raises(Cut):
        train(tmp_path / "run", Breaks())
    resumed = train(tmp_path / "run")
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert whole.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-8)
