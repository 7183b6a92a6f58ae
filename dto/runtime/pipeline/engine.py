"""Carries out one stage's actions: receive, compute, send on, with as little waiting as can be."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from dto.runtime.pipeline.activations import Activations
from dto.runtime.pipeline.layers import Caller, Tensors
from dto.runtime.pipeline.links import Links, Message, Shape, UnderWay, What
from dto.runtime.pipeline.schedule import Action, Kind, make_plan
from dto.runtime.pipeline.simulation import GRADIENTS_AHEAD


class _Entry(torch.autograd.Function):
    """Where a received tensor enters the graph: no leaf, so that a layer may change it in place."""

    @staticmethod
    def forward(ctx: Any, stub: torch.Tensor, value: torch.Tensor, gradients: Any) -> torch.Tensor:
        ctx.gradients = gradients
        ctx.mark_dirty(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:
        ctx.gradients.append(gradient)
        return None, None, None


@dataclass
class _Held:
    """What stays of a micro-batch between forward and backward."""

    ends: Sequence[torch.Tensor] = ()
    """Outputs that take a gradient back."""
    coming: Sequence[Shape] = ()
    """Of these gradients."""
    shapes: list[Shape] = field(default_factory=list)
    """Of the inputs that want a gradient."""
    gradients: list[list[torch.Tensor]] = field(default_factory=list)
    """And what backward left for each: one, or none where it was not used."""


@dataclass(frozen=True)
class MicroBatch:
    """A slice of the batch; `share` is its part of the batch's samples."""

    inputs: Tensors
    targets: Any
    share: float

    @functools.cached_property
    def key(self) -> str:
        """What the shapes of all activations depend on; the same on all stages."""
        return str([tuple(value.shape) for value in self.inputs])


class Engine(Protocol):
    """Takes a batch forward and backward through this rank's chunks."""

    def run(self, micro_batches: Sequence[MicroBatch], scale: float) -> float:
        """Add up gradients, `scale` times; return the batch's loss on the last stage, else 0."""


class StageEngine:
    """dto's own engine.

    `peak_activations` counts the micro-batches that were forward and not yet backward at once,
    the memory that a schedule is chosen for: at most stages - stage in 1F1B.
    """

    def __init__(
        self,
        links: Links,
        chunks: Sequence[Sequence[nn.Module]],
        loss: Callable[..., torch.Tensor],
        micro_batches: int,
        schedule: str,
        call: Caller,
    ) -> None:
        self._links, self._chunks, self._loss, self._call = links, chunks, loss, call
        plan = make_plan(links.stages, micro_batches, schedule, len(chunks))
        self._actions = plan[links.stage]
        self._last = links.stages * len(chunks) - 1
        self._between = Activations(links)
        self.peak_activations = 0

    def run(self, micro_batches: Sequence[MicroBatch], scale: float) -> float:
        self._batch, self._scale = micro_batches, scale
        self._total = 0.0
        self._held: dict[Action, _Held] = {}
        self._posted: dict[Action, UnderWay] = {}
        self._activations: dict[Action, UnderWay] = {}
        self._gradients: deque[UnderWay] = deque()
        self._texts: list[UnderWay] = []
        for action, following in zip(self._actions, (*self._actions[1:], None), strict=True):
            if following is not None:
                self._post(following)
            if action.kind is Kind.FORWARD:
                self._forward(action)
            else:
                self._backward(action)
        for sent in (*self._activations.values(), *self._gradients, *self._texts):
            sent.wait()
        return self._total

    # actions

    def _forward(self, action: Action) -> None:
        part, micro_batch = self._part(action), self._batch[action.micro_batch]
        held = _Held()
        inputs = self._enter(action, held) if part else micro_batch.inputs
        outputs = self._call(self._chunks[action.chunk], inputs)
        if part == self._last:
            output = outputs[0] if len(outputs) == 1 else outputs
            with self._call.precision():
                loss = self._loss(output, micro_batch.targets)
            self._total += loss.item() * micro_batch.share
            outputs = (loss,)
        else:
            *shapes, sent = self._between.send(part, action.micro_batch, micro_batch.key, outputs)
            self._texts += shapes
            self._activations[action] = sent
        held.ends = [output for output in outputs if output.requires_grad]
        held.coming = [Shape.of(end) for end in held.ends]
        self._held[action] = held
        self.peak_activations = max(self.peak_activations, len(self._held))

    def _backward(self, action: Action) -> None:
        part, micro_batch = self._part(action), self._batch[action.micro_batch]
        forward = Action(Kind.FORWARD, action.micro_batch, action.chunk)
        if part < self._last:
            gradients = self._receive(action)[0]
        else:  # of the whole batch's mean loss
            share = micro_batch.share * self._scale
            gradients = [torch.full_like(end, share) for end in self._held[forward].ends]
        held = self._held.pop(forward)
        if forward in self._activations and gradients:
            self._activations.pop(forward).wait()  # a gradient came of it, so it had arrived
        if held.ends:
            torch.autograd.backward(held.ends, gradients)
        if part:
            pairs = zip(held.shapes, held.gradients, strict=True)
            backward = [g[0] if g else torch.zeros(s.sizes, dtype=s.dtype) for s, g in pairs]
            peer = (part - 1) % self._links.stages
            name = Message(What.GRADIENT, peer, action.micro_batch, part - 1)
            self._gradients.append(self._links.send(name, backward))
            while len(self._gradients) > GRADIENTS_AHEAD:
                self._gradients.popleft().wait()

    # messages

    def _part(self, action: Action) -> int:
        return action.chunk * self._links.stages + self._links.stage

    def _post(self, action: Action) -> None:
        """Begin to receive what the next action needs, where its shapes are known already."""
        ends = 0 if action.kind is Kind.FORWARD else self._last
        if self._part(action) == ends or self._links.stages == 1:
            return
        shapes = self._expected(action)
        if shapes is not None:
            self._posted[action] = self._begin(action, shapes)

    def _expected(self, action: Action) -> Sequence[Shape] | None:
        if action.kind is Kind.FORWARD:
            key = self._batch[action.micro_batch].key
            return self._between.shapes(self._part(action), key)
        held = self._held.get(Action(Kind.FORWARD, action.micro_batch, action.chunk))
        return held.coming if held else None

    def _begin(self, action: Action, shapes: Sequence[Shape]) -> UnderWay:
        part, number = self._part(action), action.micro_batch
        if action.kind is Kind.FORWARD:
            return self._between.receive(part, number, shapes)
        peer = (part + 1) % self._links.stages
        return self._links.receive(Message(What.GRADIENT, peer, number, part), shapes)

    def _receive(self, action: Action) -> tuple[list[torch.Tensor], Sequence[Shape]]:
        shapes = self._expected(action)
        if shapes is None:
            key = self._batch[action.micro_batch].key
            shapes = self._between.learn(self._part(action), action.micro_batch, key)
        return (self._posted.pop(action, None) or self._begin(action, shapes)).wait(), shapes

    def _enter(self, action: Action, held: _Held) -> Tensors:
        """Receive what a forward needs and make it part of the graph."""
        entered = []
        for tensor, shape in zip(*self._receive(action), strict=True):
            if shape.has_gradient:
                held.shapes.append(shape)
                held.gradients.append([])
                stub = torch.empty(0, requires_grad=True)
                tensor = _Entry.apply(  # type: ignore[no-untyped-call]
                    stub, tensor, held.gradients[-1]
                )
            entered.append(tensor)
        return tuple(entered)
