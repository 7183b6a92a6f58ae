"""`DistributedTrainer`: ordinary PyTorch training on every worker of a run, resumable."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dto.errors import UsageError
from dto.runtime.callbacks import Callbacks
from dto.runtime.deterministic import make_deterministic
from dto.runtime.epochs import (
    Meter,
    evaluate,
    resumed_meter,
    step_scheduler,
    total_steps,
    train_epoch,
    with_state,
)
from dto.runtime.fits import Fits, TrainStep, after_step, check_batches, check_fit
from dto.runtime.forward import arrange_forward
from dto.runtime.loader import PreparedLoader, units_per_batch
from dto.runtime.recipe import recipe_of
from dto.runtime.scaling import scale_learning_rates
from dto.runtime.session import Session
from dto.runtime.settings import Settings, show_log
from dto.runtime.steps import Criterion, Stepper
from dto.runtime.transport import Transport

ModelT = TypeVar("ModelT", bound=nn.Module)
OptimizerT = TypeVar("OptimizerT", bound=Optimizer)


class DistributedTrainer(Fits):
    """Trains a model on all workers of the run, or on one.

    `DataLoader(batch_size=B)` means B per worker, unless `global_batch_size` fixes the sum.
    `auto_scale_lr` multiplies the learning rate by (global batch of the first attempt / B), once.
    A checkpoint is taken every `checkpoint_interval` epochs (0: none) and, if given, every
    `checkpoint_every` ("200steps", "15m"). `strategy`, `mesh` and further `options` say how the
    model is spread over the ranks and how a step is taken: see `dto.runtime.recipe.Recipe`.
    """

    def __init__(
        self,
        *,
        auto_scale_lr: bool = True,
        auto_scale_batch_size: bool = False,
        verbose: bool = True,
        checkpoint_interval: int = 10,
        keep_last_n_checkpoints: int = 3,
        save_best_only: bool = False,
        s3_bucket_arn: str | None = None,
        backend: str = "auto",
        device: str = "auto",
        checkpoint_every: str | int | None = None,
        global_batch_size: int | None = None,
        seed: int | None = None,
        run_dir: str | Path | None = None,
        strategy: str = "ddp",
        mesh: Mapping[str, int] | None = None,
        transport: Transport | None = None,
        **options: Any,
    ) -> None:
        if backend == "torch":  # torch's own strategies, on whatever it talks with here
            backend, options["implementation"] = "auto", "torch"
        settings = Settings(
            recipe=recipe_of({"strategy": strategy, "mesh": mesh, **options}),
            backend=backend,
            device=device,
            checkpoint_every=checkpoint_every,
            global_batch_size=global_batch_size,
            seed=seed,
            run_dir=run_dir,
            keep_last=keep_last_n_checkpoints,
            transport=transport,
        )
        if settings.recipe.deterministic:
            make_deterministic()
        super().__init__(Session(settings), s3_bucket_arn, checkpoint_interval, save_best_only)
        self.auto_scale_lr = auto_scale_lr
        self.auto_scale_batch_size = auto_scale_batch_size
        self._steppers: weakref.WeakKeyDictionary[Optimizer, Stepper] = weakref.WeakKeyDictionary()
        self._base_batch: int | None = None
        show_log(verbose and self.is_master())
        if self.session.in_run:
            self.session.look_for_checkpoint()

    # for loops written by hand

    def prepare_model(self, model: ModelT) -> ModelT:
        """Move the model to the device and give every rank the weights of rank 0."""
        arrange_forward(model.to(self.device), self.session.recipe, self.session.layout)
        self.session.add_model(model)
        return model

    def prepare_optimizer(self, optimizer: OptimizerT, model: nn.Module) -> OptimizerT:
        """Count the optimizer's steps, and scale its learning rate once."""
        self._prepare(model, optimizer, None)
        self.session.restore()
        return optimizer

    def prepare_dataloader(
        self, dataloader: DataLoader[Any] | PreparedLoader, train: bool = True
    ) -> PreparedLoader:
        """Share a DataLoader out over the ranks. `train=False`: neither skipped nor counted."""
        if not isinstance(dataloader, PreparedLoader):
            self._base_batch = units_per_batch(dataloader) if train else self._base_batch
        factor = self.session.layout.mesh.dp if self.auto_scale_batch_size else 1
        return self.session.add_loader(
            dataloader, is_training=train, keeps_step=train, batch_factor=factor
        )

    def stepper(self, model: nn.Module, optimizer: Optimizer, criterion: Criterion) -> Stepper:
        """What takes steps on global batches of this model as the options say."""
        known = self._steppers.get(optimizer)
        if known is None or not known.is_for(model, criterion):
            known = self._steppers[optimizer] = Stepper(self.session, model, optimizer, criterion)
        return known

    def _prepare(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Any,
        criterion: Criterion | None = None,
        **objects: Any,
    ) -> None:
        session = self.session
        self.prepare_model(model)
        if criterion is not None:
            objects["grad_scaler"] = self.stepper(model, optimizer, criterion).scaler
        session.add_optimizer(model, optimizer, criterion, scheduler=scheduler, **objects)
        is_resumed = session.loaded is not None and session.lr_factor is not None
        if self.auto_scale_lr and optimizer not in self._scaled and not is_resumed:
            base = self._base_batch or 1
            whole = session.global_batch or base * session.layout.mesh.dp
            session.lr_factor = whole / base
            scale_learning_rates(optimizer, scheduler, session.lr_factor)
        self._scaled.add(optimizer)

    # training

    def fit(
        self,
        model: nn.Module,
        train_loader: DataLoader[Any] | PreparedLoader,
        optimizer: Optimizer,
        criterion: Callable[[Any, Any], torch.Tensor],
        num_epochs: int,
        train_step_fn: TrainStep | None = None,
        resume_from_checkpoint: str | Path | None = None,
        val_loader: DataLoader[Any] | PreparedLoader | None = None,
        scheduler: Any = None,
        *,
        scheduler_every: str = "epoch",
        callbacks: Sequence[object] = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Train up to `num_epochs` epochs in all, counting those of earlier attempts.

        `train_step_fn` trains one epoch: it is called with model, train_loader, optimizer,
        criterion, device, trainer, epoch and `kwargs` by keyword, and returns metrics with
        "loss" among them. Those of `kwargs` that have a state_dict (a GradScaler, a schedule
        of every step) are saved and continued, too. Inside a run of dto the newest valid
        checkpoint is continued; elsewhere `resume_from_checkpoint="auto"` finds the last run's,
        a path names one. `scheduler` steps after every epoch, or with `scheduler_every="step"`
        after every step of the optimizer. For `callbacks` see `dto.Callback`.

        Returns "train_loss" and "epochs" (lists), "final_model_path", and with a `val_loader`
        "val_loss" and, for classes, "val_accuracy".
        """
        check_fit(self.session.recipe, train_step_fn, scheduler, scheduler_every, kwargs)
        told = Callbacks(self, callbacks)
        number, first_epoch = self._begin_fit(model, optimizer, resume_from_checkpoint)
        saved = self._saved_extra()
        if number < int(saved.get("fit", 0)):  # trained and done in an earlier attempt
            return self._skip_fit(model, saved["histories"][number])
        loader = self.prepare_dataloader(train_loader)
        validation = self._validation_loader(val_loader)
        steps = criterion if train_step_fn is None else None
        objects = with_state({**kwargs, **told.named()})
        self._prepare(model, optimizer, scheduler, steps, **objects)
        check_batches(self.session, loader.smallest_batch())
        told.tell("on_fit_begin")
        self.session.restore()
        self.session.after_step = after_step(told, scheduler, scheduler_every)
        history = self._begin_history(saved, number)
        self.session.progress.total_steps = total_steps(loader, num_epochs)
        start = self.session.epoch if self.session.loaded is not None else first_epoch
        given = {"model": model, "optimizer": optimizer, "criterion": criterion, **kwargs}
        for epoch in range(start, num_epochs):
            told.tell("on_epoch_begin", epoch)
            if self._agree_to_stop():
                break
            metrics = self._train(train_step_fn or train_epoch, loader, epoch, given)
            if validation is not None:
                metrics.update(self._validate(model, validation, criterion))
            if scheduler is not None and scheduler_every == "epoch":
                step_scheduler(scheduler, metrics)
            self._end_epoch(told, history, metrics, epoch, num_epochs)
        self.session.settle()
        history["final_model_path"] = self._save_final(model, optimizer, history)
        told.tell("on_fit_end", history)
        return dict(history)

    def _validation_loader(self, loader: Any) -> PreparedLoader | None:
        if loader is None:
            return None
        return self.session.add_loader(loader, is_training=False, keeps_step=True)

    def _validate(
        self, model: nn.Module, loader: PreparedLoader, criterion: Criterion
    ) -> dict[str, float]:
        found = evaluate(self.session, model, loader, criterion)
        return {f"val_{name}": value for name, value in found.items()}

    def _train(
        self, train: TrainStep, loader: PreparedLoader, epoch: int, given: dict[str, Any]
    ) -> dict[str, float]:
        session = self.session
        is_resumed = session.loaded is not None and epoch == session.epoch
        self.meter = resumed_meter(session) if is_resumed else Meter()
        loader.set_epoch(epoch)
        found = train(train_loader=loader, device=self.device, trainer=self, epoch=epoch, **given)
        if "loss" not in found:
            raise UsageError('train_step_fn must return a dict with the epoch\'s mean "loss"')
        if train is train_epoch:
            return {"train_loss": found["loss"]}
        everyones = session.transport.all_gather_object(float(found["loss"]))
        return {"train_loss": sum(everyones) / self.size}


def create_distributed_trainer(**kwargs: Any) -> DistributedTrainer:
    """The same as `DistributedTrainer(**kwargs)`."""
    return DistributedTrainer(**kwargs)
