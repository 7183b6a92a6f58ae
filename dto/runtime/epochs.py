"""One epoch of training and one of validation, as `DistributedTrainer.fit` does them by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.generators import capture_generators
from dto.errors import UsageError
from dto.runtime.loader import PreparedLoader
from dto.runtime.session import Session
from dto.runtime.steps import autocast

if TYPE_CHECKING:
    from dto.runtime.trainer import DistributedTrainer


class Meter:
    """Sums of this rank in double precision; only the quotient of everybody's is a mean."""

    def __init__(self, values: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        self.loss: float | torch.Tensor = values[0]
        self.correct, self.samples = values[1:]

    def add(self, loss: torch.Tensor, samples: int, correct: float = 0.0) -> None:
        """Add a mean loss; on a GPU the sum stays there, for reading it would wait for the GPU."""
        exact = loss.detach().double() if loss.is_cuda else loss.item()
        self.loss = self.loss + exact * samples
        self.correct += correct
        self.samples += samples

    def state(self) -> list[float]:
        return [float(self.loss), self.correct, self.samples]

    def totals(self, session: Session) -> tuple[float, float]:
        """Mean loss and accuracy over all samples of all ranks."""
        sums = torch.tensor(self.state(), dtype=torch.float64, device=session.device)
        session.transport.all_reduce(sums)
        loss, correct, samples = sums.tolist()
        return (loss / samples, correct / samples) if samples else (math.nan, math.nan)


def resumed_meter(session: Session) -> Meter:
    """The sums at the checkpoint; on another number of ranks, rank 0 takes everybody's."""
    assert session.loaded is not None
    ranks = [r.get("meter", [0.0] * 3) for r in session.loaded.manifest.extra.get("ranks", [])]
    if len(ranks) == session.world.size:
        return Meter(ranks[session.world.rank])
    return (
        Meter([math.fsum(column) for column in zip(*ranks, strict=True)])
        if (session.world.is_master and ranks)
        else Meter()
    )


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in tuples, lists and dicts moved to the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple takes its parts
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value


def pair(batch: Any, device: torch.device) -> tuple[Any, Any]:
    """(inputs, targets) of a batch, on the device."""
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise UsageError(
            "fit expects batches of (inputs, targets): give it a train_step_fn for others"
        )
    return to_device(batch[0], device), to_device(batch[1], device)


def train_epoch(
    *,
    model: nn.Module,
    train_loader: PreparedLoader,
    optimizer: Optimizer,
    criterion: Callable[[Any, Any], torch.Tensor],
    device: torch.device,
    trainer: DistributedTrainer,
    epoch: int,
) -> dict[str, float]:
    """Train on what is left of the epoch; the mean loss is that of all of it."""
    session, meter = trainer.session, trainer.meter
    stepper = trainer.stepper(model, optimizer, criterion)
    model.train()
    for batch in train_loader:
        inputs, targets = pair(batch, device)
        loss = stepper.step(inputs, targets)
        if session.own_samples and session.speaks:
            meter.add(loss, session.own_samples)
    return {"loss": meter.totals(session)[0]}


@torch.no_grad()
def evaluate(
    session: Session,
    model: nn.Module,
    loader: PreparedLoader,
    criterion: Callable[[Any, Any], torch.Tensor],
) -> dict[str, float]:
    """Mean loss, and accuracy where targets are classes. All ranks poll for a stop together."""
    if session.parallel is not None:
        session.parallel.broadcast_buffers()
    # a stop in here is resumed at the beginning of the validation: with the generators of now
    session.pinned_generators = capture_generators()
    was_training = model.training
    model.eval()
    meter, has_classes = Meter(), False
    for size, batch in loader.sized(0, 0):
        session.poll()
        inputs, targets = pair(batch, session.device)
        loss, correct = _measure(session, model, criterion, inputs, targets)
        if size.own and session.speaks:
            has_classes = has_classes or correct is not None
            meter.add(loss, size.own, (correct or 0.0) * size.own)
    model.train(was_training)
    session.pinned_generators = None
    mean_loss, accuracy = meter.totals(session)
    answers = session.transport.all_gather_object(has_classes)
    found = {"loss": mean_loss}
    return {**found, "accuracy": accuracy} if any(answers) else found


def _measure(
    session: Session,
    model: nn.Module,
    criterion: Callable[[Any, Any], torch.Tensor],
    inputs: Any,
    targets: Any,
) -> tuple[torch.Tensor, float | None]:
    """Mean loss of a batch, and the share of correct classes."""
    if session.pipeline is not None:
        loss, share = session.pipeline.evaluate(inputs, targets, _share_or_nan)
        return torch.tensor(loss, dtype=torch.float64), None if math.isnan(share) else share
    with autocast(session):
        outputs = model(inputs)
        return criterion(outputs, targets), _share_correct(outputs, targets)


def _share_or_nan(outputs: Any, targets: Any) -> float:
    share = _share_correct(outputs, targets)
    return math.nan if share is None else share


def _share_correct(outputs: Any, targets: Any) -> float | None:
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return None
    if targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
        return None
    if outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        return None
    return float((outputs.argmax(dim=1) == targets).double().mean())


def total_steps(loader: PreparedLoader, num_epochs: int) -> int | None:
    try:
        return len(loader) * num_epochs
    except TypeError:  # a stream of unknown length
        return None


def step_scheduler(scheduler: Any, metrics: dict[str, float]) -> None:
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step(metrics.get("val_loss", metrics["train_loss"]))
    else:
        scheduler.step()


def with_state(things: Mapping[str, Any]) -> dict[str, Any]:
    """Those whose state can be saved and put back."""
    return {
        name: thing
        for name, thing in things.items()
        if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")
    }
