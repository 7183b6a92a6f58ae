"""One optimizer step on one global batch: pieces, precision, clipping; or through a pipeline."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.errors import UsageError
from dto.runtime.recipe import PRECISIONS, Recipe
from dto.runtime.session import Session

log = logging.getLogger(__name__)
Criterion = Callable[[Any, Any], torch.Tensor]


class Stepper:
    """Takes steps as the recipe says; `fit` makes one, loops by hand do not need it."""

    def __init__(
        self, session: Session, model: nn.Module, optimizer: Optimizer, criterion: Criterion
    ) -> None:
        self.session, self.recipe = session, session.recipe
        self._model, self._optimizer, self._criterion = model, optimizer, criterion
        self.scaler = make_scaler(self.recipe, session.device)
        """Saved with the checkpoint; None unless the precision is fp16."""
        is_told = self.recipe.accumulation_steps > 1 and session.layout.mesh.pp > 1
        if is_told and session.world.is_master:
            log.warning("a pipeline cuts batches by micro_batches: accumulation_steps does nothing")

    def is_for(self, model: nn.Module, criterion: Criterion) -> bool:
        return self._model is model and self._criterion is criterion

    def step(self, inputs: Any, targets: Any) -> torch.Tensor:
        """Train on this rank's part of a global batch; returns its mean loss, detached."""
        session = self.session
        self._optimizer.zero_grad()
        if session.pipeline is not None:
            loss = self._through_pipeline(inputs, targets)
        else:
            loss = self._in_pieces(inputs, targets)
        self._clip()
        if self.scaler is None:
            self._optimizer.step()
        else:
            self.scaler.step(self._optimizer)
            self.scaler.update()
        return loss

    def _in_pieces(self, inputs: Any, targets: Any) -> torch.Tensor:
        session, parallel = self.session, self.session.parallel
        count = min(self.recipe.accumulation_steps, session.fewest_samples)
        pieces = split(inputs, targets, count)
        total: torch.Tensor | None = None
        for number, (share, some, wanted) in enumerate(pieces):
            is_last = number == len(pieces) - 1
            apart = contextlib.nullcontext() if is_last or parallel is None else parallel.no_sync()
            with apart:
                with autocast(session):
                    loss = self._criterion(self._model(some), wanted)
                part = loss * share if share != 1.0 else loss
                total = part.detach() if total is None else total + part.detach()
                if is_last:
                    session.note_loss(total)
                self._backward(part)
        assert total is not None
        return total

    def _backward(self, loss: torch.Tensor) -> None:
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def _through_pipeline(self, inputs: Any, targets: Any) -> torch.Tensor:
        session = self.session
        assert session.parallel is not None and session.pipeline is not None
        with session.parallel.no_sync():
            loss = torch.tensor(session.pipeline.step(inputs, targets), dtype=torch.float64)
        session.note_loss(loss)
        session.parallel.synchronise()
        return loss

    def _clip(self) -> None:
        session, limit = self.session, self.recipe.clip_grad_norm
        if self.scaler is not None:
            self.scaler.unscale_(self._optimizer)
            self._agree_on_infinities()
        if limit is None:
            return
        if session.parallel is not None:
            session.parallel.clip_grad_norm(limit)
        else:
            nn.utils.clip_grad_norm_(self._model.parameters(), limit)

    def _agree_on_infinities(self) -> None:
        """A shard that overflowed on one rank: all ranks leave this step out."""
        assert self.scaler is not None
        found = list(self.scaler._found_inf_per_device(self._optimizer).values())
        everyones = torch.zeros(1, device=self.session.device)
        for mine in found:
            everyones += mine.to(everyones.device)
        self.session.transport.all_reduce(everyones)  # also of a rank that holds no gradient
        for mine in found:
            mine.copy_(everyones.view_as(mine))


def autocast(session: Session) -> contextlib.AbstractContextManager[Any]:
    """The recipe's precision around forward, in training and evaluation alike."""
    dtype = PRECISIONS[session.recipe.precision]
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(session.device.type, dtype)


def make_scaler(recipe: Recipe, device: torch.device) -> torch.amp.GradScaler | None:
    if recipe.precision != "fp16":
        return None
    return torch.amp.GradScaler(device.type)


def split(inputs: Any, targets: Any, count: int) -> list[tuple[float, Any, Any]]:
    """A batch in `count` pieces along its first dimension, each with its share of the samples."""
    if count == 1:
        return [(1.0, inputs, targets)]
    rows = _rows(inputs)
    edges = [rows * number // count for number in range(count + 1)]
    spans = list(zip(edges, edges[1:], strict=False))
    return [
        ((end - begin) / rows, _slice(inputs, begin, end), _slice(targets, begin, end))
        for begin, end in spans
    ]


def _rows(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return len(value)
    if isinstance(value, dict):
        return _rows(next(iter(value.values())))
    if isinstance(value, list | tuple) and value:
        return _rows(value[0])
    raise UsageError(
        "accumulation_steps cuts batches of tensors, or of lists, tuples and dicts of them,"
        f" not {type(value).__name__}"
    )


def _slice(value: Any, begin: int, end: int) -> Any:
    if isinstance(value, torch.Tensor):
        return value[begin:end]
    if isinstance(value, dict):
        return {key: _slice(item, begin, end) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_slice(item, begin, end) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_slice(item, begin, end) for item in value)
    return value
