"""The same stages carried out by torch.distributed.pipelining: dto's engine is compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
)

from dto.errors import ConfigError
from dto.runtime.pipeline.engine import MicroBatch
from dto.runtime.pipeline.layers import Caller
from dto.runtime.pipeline.links import Links


class _Chunk(nn.Module):
    def __init__(self, layers: Sequence[nn.Module], call: Caller) -> None:
        super().__init__()
        self.layers, self.call = nn.ModuleList(layers), call

    def forward(self, *values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = self.call(list(self.layers), values)
        return outputs[0] if len(outputs) == 1 else outputs


class TorchEngine:
    """Needs 2 stages or more and a batch that micro-batches divide evenly."""

    def __init__(
        self,
        links: Links,
        chunks: Sequence[Sequence[nn.Module]],
        loss: Callable[..., torch.Tensor],
        micro_batches: int,
        schedule: str,
        call: Caller,
    ) -> None:
        if links.stages < 2:
            raise ConfigError("backend torch needs 2 stages or more: use backend dto for one")
        self._loss, self._call, self._scale = loss, call, 1.0
        self._losses: list[torch.Tensor] = []
        found = {p: None for layers in chunks for layer in layers for p in layer.parameters()}
        self._parameters = list(found)
        group = getattr(links.transport, "group", None)
        parts = links.stages * len(chunks)
        numbers = range(links.stage, parts, links.stages)
        device = torch.device("cpu")
        stages: list[Any] = [
            PipelineStage(_Chunk(layers, call), number, parts, device, group=group)
            for number, layers in zip(numbers, chunks, strict=True)
        ]
        self._is_first, self._is_last = links.stage == 0, links.stage == links.stages - 1
        if schedule == "interleaved":
            self._schedule: Any = ScheduleInterleaved1F1B(stages, micro_batches, self._scaled_loss)
        else:
            kind = Schedule1F1B if schedule == "1f1b" else ScheduleGPipe
            self._schedule = kind(stages[0], micro_batches, self._scaled_loss)

    def _scaled_loss(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        with self._call.precision():
            loss = self._loss(output, target)
        self._losses.append(loss.detach())
        return loss * self._scale

    def run(self, micro_batches: Sequence[MicroBatch], scale: float) -> float:
        if len({micro_batch.key for micro_batch in micro_batches}) > 1:
            raise ConfigError(
                f"backend torch needs a batch that {len(micro_batches)} micro-batches divide"
                " evenly: use another batch size, or backend dto"
            )
        columns = zip(*(micro_batch.inputs for micro_batch in micro_batches), strict=True)
        inputs = tuple(torch.cat(column) for column in columns) if self._is_first else ()
        targets = torch.cat([micro_batch.targets for micro_batch in micro_batches])
        self._scale, self._losses = scale, []
        before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None  # torch divides all of it by the number of micro-batches
        if self._is_last:
            self._schedule.step(*inputs, target=targets, return_outputs=False)
        else:
            self._schedule.step(*inputs, return_outputs=False)
        for parameter, gradient in zip(self._parameters, before, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
        losses = self._losses[-len(micro_batches) :]  # before, torch tries one to see its shapes
        return float(torch.stack(losses).mean()) if losses else 0.0
