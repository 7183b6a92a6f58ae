"""What a script may hang into `DistributedTrainer.fit`, and early stopping as one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dto.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from dto.runtime.trainer import DistributedTrainer

MOMENTS = ("on_fit_begin", "on_epoch_begin", "on_step_end", "on_epoch_end", "on_fit_end")


class Callback:
    """Override what you need, or give `fit` any object that has some of these methods.

    Every rank calls its own. One with state_dict() and load_state_dict() is saved with each
    checkpoint, as rank 0 has it, and put back on all ranks. What it raises ends the script.
    """

    def on_fit_begin(self, trainer: DistributedTrainer) -> None:
        """Before a checkpoint, if there is one, is put back."""

    def on_epoch_begin(self, trainer: DistributedTrainer, epoch: int) -> None:
        """Before an epoch, numbered from 0, or the rest of one."""

    def on_step_end(self, trainer: DistributedTrainer, step: int, loss: float | None) -> None:
        """After the optimizer's step number `step`, counted over attempts, before it is saved.

        The loss is the mean over the global batch; None where a train_step_fn trains.
        """

    def on_epoch_end(
        self, trainer: DistributedTrainer, epoch: int, metrics: Mapping[str, float]
    ) -> None:
        """After validation, before a checkpoint. Metrics are the same on all ranks."""

    def on_fit_end(self, trainer: DistributedTrainer, history: Mapping[str, Any]) -> None:
        """After the final model was written; `history` is what `fit` returns."""


class Callbacks:
    """Those of one fit, in their order."""

    def __init__(self, trainer: DistributedTrainer, callbacks: Sequence[object]) -> None:
        if not isinstance(callbacks, Sequence):
            raise UsageError("fit takes callbacks=[...]: give it a list")
        for callback in callbacks:
            if isinstance(callback, type) or not any(hasattr(callback, m) for m in MOMENTS):
                raise UsageError(
                    f"{callback!r} is no callback: give an object with {', '.join(MOMENTS[:-1])}"
                    f" or {MOMENTS[-1]}"
                )
        self._trainer, self._callbacks = trainer, list(callbacks)
        plain = Callback.on_step_end
        self.follow_steps = any(
            getattr(type(callback), "on_step_end", plain) is not plain for callback in callbacks
        )

    def tell(self, moment: str, *arguments: Any) -> None:
        """Call this method of those that have it."""
        for callback in self._callbacks:
            method = getattr(callback, moment, None)
            if method is not None:
                method(self._trainer, *arguments)

    def named(self) -> dict[str, object]:
        """For the checkpoint: their places and kinds, so that each finds its own state."""
        return {
            f"callback-{number}-{type(callback).__name__}": callback
            for number, callback in enumerate(self._callbacks)
        }


class EarlyStop(Callback):
    """Ends `fit` once `metric` has not improved for `patience` epochs in a row.

    Args:
        metric: a name in the history, such as "val_loss", "val_accuracy" or "train_loss".
        patience: how many epochs to wait for something better.
        min_delta: what is better by no more than this does not count.
        mode: "min", or "max" for a metric that should grow.
    """

    def __init__(
        self,
        metric: str = "val_loss",
        patience: int = 3,
        min_delta: float = 0.0,
        mode: str = "min",
    ) -> None:
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise ConfigError(f"patience is {patience!r}: give a whole number of epochs from 1 on")
        if not min_delta >= 0:
            raise ConfigError(f"min_delta is {min_delta!r}: give 0 or more")
        if mode not in ("min", "max"):
            raise ConfigError(f"mode is {mode!r}: use min or max")
        self.metric, self.patience = metric, patience
        self.min_delta, self._sign = min_delta, 1.0 if mode == "min" else -1.0
        self._forget()

    def _forget(self) -> None:
        self.best, self.waited = math.inf, 0

    def on_fit_begin(self, trainer: DistributedTrainer) -> None:
        self._forget()

    def on_epoch_begin(self, trainer: DistributedTrainer, epoch: int) -> None:
        if self.waited >= self.patience:  # as the checkpoint has it
            trainer.stop_training()

    def on_epoch_end(
        self, trainer: DistributedTrainer, epoch: int, metrics: Mapping[str, float]
    ) -> None:
        if self.metric not in metrics:
            raise UsageError(
                f"EarlyStop waits for {self.metric!r}, and an epoch here has"
                f" {', '.join(metrics)}: give fit a val_loader, or EarlyStop another metric"
            )
        value = self._sign * metrics[self.metric]
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.log(f"stops early: {self.metric} was best {self.waited} epochs ago")
            trainer.stop_training()

    def state_dict(self) -> dict[str, float]:
        """The best value so far, negative where more is better, and the epochs since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.best, self.waited = float(state["best"]), int(state["waited"])
