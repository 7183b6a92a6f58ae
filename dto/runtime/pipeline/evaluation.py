"""A batch forward through the stages, for its loss and what else one wants to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from dto.runtime.pipeline.activations import Activations
from dto.runtime.pipeline.engine import MicroBatch
from dto.runtime.pipeline.layers import Caller
from dto.runtime.pipeline.links import Links, UnderWay
from dto.runtime.pipeline.schedule import forward_order

Measure = Callable[[Any, Any], float | torch.Tensor]


class Evaluator:
    """Forward only, without gradients; layers are as in `eval()` meanwhile."""

    def __init__(
        self,
        links: Links,
        chunks: Sequence[Sequence[nn.Module]],
        loss: Callable[..., torch.Tensor],
        call: Caller,
    ) -> None:
        self._links, self._chunks, self._loss, self._call = links, chunks, loss, call
        self._activations = Activations(links)
        self._parts = links.stages * len(chunks)

    @torch.no_grad()
    def run(self, batch: Sequence[MicroBatch], measure: Measure | None) -> tuple[float, float]:
        """Means over the samples of the loss and of `measure`, on the last stage; else zeros."""
        modes = [(m, m.training) for chunk in self._chunks for one in chunk for m in one.modules()]
        for module, _ in modes:
            module.training = False
        try:
            return self._forward(batch, measure)
        finally:
            for module, is_training in modes:
                module.training = is_training

    def _forward(self, batch: Sequence[MicroBatch], measure: Measure | None) -> tuple[float, float]:
        loss = measured = 0.0
        sent: list[UnderWay] = []
        for action in forward_order(self._links.stages, len(batch), len(self._chunks)):
            number, micro_batch = action.micro_batch, batch[action.micro_batch]
            part = action.chunk * self._links.stages + self._links.stage
            inputs = micro_batch.inputs
            if part:
                shapes = self._activations.learn(part, number, micro_batch.key)
                inputs = tuple(self._activations.receive(part, number, shapes).wait())
            outputs = self._call(self._chunks[action.chunk], inputs)
            if part < self._parts - 1:
                sent += self._activations.send(part, number, micro_batch.key, outputs)
                continue
            output = outputs[0] if len(outputs) == 1 else outputs
            with self._call.precision():
                loss += float(self._loss(output, micro_batch.targets)) * micro_batch.share
            if measure is not None:
                measured += float(measure(output, micro_batch.targets)) * micro_batch.share
        for one in sent:
            one.wait()
        return loss, measured
