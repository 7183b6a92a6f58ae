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
from dto.runtime.pipeline.engine import MicroBatch, run_layers
from dto.runtime.pipeline.links import Links


class _Chunk(nn.Module):
    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = run_layers(list(self.layers), values)
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
    ) -> None:
        if links.stages < 2:
            raise ConfigError("backend torch needs 2 stages or more: use backend dto for one")
        self._links = links
        parts = links.stages * len(chunks)
        numbers = range(links.stage, parts, links.stages)
        device = torch.device("cpu")
        stages: list[Any] = [
            PipelineStage(_Chunk(layers), number, parts, device, group=links.group)
            for number, layers in zip(numbers, chunks, strict=True)
        ]
        self._is_first, self._is_last = links.stage == 0, links.stage == links.stages - 1
        if schedule == "interleaved":
            self._schedule: Any = ScheduleInterleaved1F1B(stages, micro_batches, loss)
        else:
            kind = Schedule1F1B if schedule == "1f1b" else ScheduleGPipe
            self._schedule = kind(stages[0], micro_batches, loss)

    def run(self, micro_batches: Sequence[MicroBatch]) -> float:
        if len({micro_batch.key for micro_batch in micro_batches}) > 1:
            raise ConfigError(
                f"backend torch needs a batch that {len(micro_batches)} micro-batches divide"
                " evenly: use another batch size, or backend dto"
            )
        columns = zip(*(micro_batch.inputs for micro_batch in micro_batches), strict=True)
        inputs = tuple(torch.cat(column) for column in columns) if self._is_first else ()
        targets = torch.cat([micro_batch.targets for micro_batch in micro_batches])
        losses: list[torch.Tensor] = []
        step = self._schedule.step
        if self._is_last:
            step(*inputs, target=targets, losses=losses, return_outputs=False)
        else:
            step(*inputs, return_outputs=False)
        return float(torch.stack(losses).detach().mean()) if losses else 0.0
