"""The fits of one script: what each may be asked, where it goes on, what it has come to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dto.checkpoint.final import load_final
from dto.checkpoint.legacy import load_legacy
from dto.errors import ConfigError, UsageError
from dto.runtime.archive import Archive
from dto.runtime.callbacks import Callbacks
from dto.runtime.epochs import Meter
from dto.runtime.recipe import Recipe
from dto.runtime.session import Session
from dto.runtime.stores import find_start, next_attempt

TrainStep = Callable[..., dict[str, Any]]
_OF_STEPS = ("accumulation_steps", "precision", "clip_grad_norm")


def check_fit(
    recipe: Recipe,
    train_step_fn: TrainStep | None,
    scheduler: Any,
    scheduler_every: str,
    kwargs: Mapping[str, Any],
) -> None:
    """Raise UsageError where what `fit` was given would have no effect."""
    if kwargs and train_step_fn is None:
        raise UsageError(f"fit got {', '.join(kwargs)}, which only a train_step_fn can use")
    unused = [name for name in _OF_STEPS if getattr(recipe, name) != getattr(Recipe, name)]
    if train_step_fn is not None and unused:
        raise UsageError(
            f"train_step_fn takes the steps itself, so {', '.join(unused)} would have no effect:"
            " leave that out, or train without a train_step_fn"
        )
    if scheduler_every not in ("epoch", "step"):
        raise ConfigError(f"scheduler_every is {scheduler_every!r}: use one of epoch, step")
    if scheduler_every == "step" and isinstance(scheduler, ReduceLROnPlateau):
        raise UsageError(
            "ReduceLROnPlateau follows the metrics of epochs: leave scheduler_every='step' out"
        )


def check_batches(session: Session, smallest: int | None) -> None:
    """Raise ConfigError before training where an epoch's last batch could not fill a pipeline."""
    if session.pipeline is None or smallest is None:
        return
    own, pieces = smallest // session.layout.mesh.dp, session.pipeline.micro_batches
    if own < pieces:
        raise ConfigError(
            f"an epoch's smallest batch has {smallest} samples, {own} for each of"
            f" {session.layout.mesh.dp} pipelines, which cut it into {pieces} micro-batches: use a"
            " DataLoader with drop_last=True, a larger batch, or fewer micro_batches"
        )


def after_step(
    told: Callbacks, scheduler: Any, scheduler_every: str
) -> Callable[[int, float | torch.Tensor | None], None]:
    """What follows each step of the optimizer, before a checkpoint of it."""
    steps = scheduler.step if scheduler is not None and scheduler_every == "step" else None

    def act(step: int, loss: float | torch.Tensor | None) -> None:
        if steps is not None:
            steps()
        if told.follow_steps:
            told.tell("on_step_end", step, None if loss is None else float(loss))

    return act


class Fits(Archive):
    """A script may call `fit` several times; a resumed one finds its place among them."""

    def __init__(
        self,
        session: Session,
        s3_bucket_arn: str | None,
        checkpoint_interval: int,
        save_best_only: bool,
    ) -> None:
        super().__init__(session, s3_bucket_arn)
        self.checkpoint_interval = checkpoint_interval
        self.save_best_only = save_best_only
        self.best_metric = float("inf")
        self.meter = Meter()
        self._fits = 0
        self._wants_stop = False
        self._histories: list[dict[str, Any]] = []
        self._scaled: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        session.extra = self._extra
        session.rank_extra = lambda: {"meter": self.meter.state()}

    # going on

    def _begin_fit(
        self, model: nn.Module, optimizer: Optimizer, path: str | Path | None
    ) -> tuple[int, int]:
        """The number of this fit, and its first epoch, where only a `.pt` file tells it."""
        number, self._fits = self._fits, self._fits + 1
        self._wants_stop = False
        return number, self._resume(model, optimizer, path)

    def _resume(self, model: nn.Module, optimizer: Optimizer, path: str | Path | None) -> int:
        """Find what to go on from."""
        session = self.session
        is_later = self._fits > 1  # nothing newer than what this process has done itself
        if session.loaded is not None or path is None or (is_later and str(path) == "auto"):
            return 0
        if str(path) != "auto" and Path(path).is_file():
            epochs_done = load_legacy(Path(path), model, optimizer).epochs_done
            self._scaled.add(optimizer)  # the rates in the file were scaled by whoever wrote it
            return epochs_done
        found = find_start(session.transport, session.settings, path)
        if found is None or session.in_run and str(path) == "auto":
            return 0
        directory, only = found
        store = next_attempt(session.transport, directory, session.settings.keep_last)
        if not session.in_run:
            session.keeper.store = store
        session.look_for_checkpoint(store, only)
        return 0

    def _saved_extra(self) -> dict[str, Any]:
        loaded = self.session.loaded
        return dict(loaded.manifest.extra.get("trainer", {})) if loaded is not None else {}

    def _skip_fit(self, model: nn.Module, history: dict[str, Any]) -> dict[str, Any]:
        """A fit that an earlier attempt finished: only its model is still of use."""
        self._histories.append(history)
        path = history.get("final_model_path")
        if path and Path(path).is_file():
            load_final(Path(path), model)
        else:
            self.log(f"warning: the model of a finished fit is not at {path} any more")
        return dict(history)

    def _begin_history(self, saved: dict[str, Any], this_fit: int) -> dict[str, Any]:
        history: dict[str, Any] = {"train_loss": [], "epochs": []}
        if saved and this_fit == saved["fit"]:
            history = saved["histories"][this_fit]
            self.best_metric = saved["best_metric"]
        elif self.session.loaded is None:
            self.session.epoch = self.session.samples = 0
        self._histories.append(history)
        return history

    def _extra(self) -> dict[str, Any]:
        mine = {
            "fit": max(0, len(self._histories) - 1),
            "histories": self._histories,
            "best_metric": self.best_metric,
        }
        return {"trainer": mine}

    def _save_final(self, model: nn.Module, optimizer: Optimizer, history: dict[str, Any]) -> Any:
        metrics = {name: values[-1] for name, values in history.items() if values}
        path = self.save_final_model_to_file(model, optimizer, metrics)
        return self.session.transport.all_gather_object(path)[0]

    # ending

    def stop_training(self) -> None:
        """Let `fit` end after the epoch under way, on all ranks, whichever of them asked."""
        self._wants_stop = True

    def _agree_to_stop(self) -> bool:
        wanted = torch.tensor([float(self._wants_stop)], device=self.device)
        self.session.transport.all_reduce(wanted)
        self._wants_stop = bool(wanted.item())
        return self._wants_stop

    def _end_epoch(
        self,
        told: Callbacks,
        history: dict[str, Any],
        metrics: dict[str, float],
        epoch: int,
        num_epochs: int,
    ) -> None:
        for name, value in metrics.items():
            history.setdefault(name, []).append(value)
        history["epochs"].append(epoch)
        words = "  ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        self.log(f"epoch {epoch + 1}/{num_epochs}  {words}")
        self.meter = Meter()
        self.session.epoch, self.session.samples = epoch + 1, 0
        told.tell("on_epoch_end", epoch, metrics)
        is_due = self._is_due(epoch + 1, epoch + 1 if self._agree_to_stop() else num_epochs)
        if not (is_due or self.save_best_only):
            return
        metric = metrics.get("val_loss", metrics["train_loss"])
        is_best = metric < self.best_metric
        self.best_metric = min(metric, self.best_metric)
        if is_due or is_best:
            self.session.save(is_best)

    def _is_due(self, done: int, num_epochs: int) -> bool:
        if self.save_best_only:
            return False
        if self.checkpoint_interval > 0:
            return done % self.checkpoint_interval == 0 or done == num_epochs
        return self.session.settings.checkpoint_every is not None and done == num_epochs
