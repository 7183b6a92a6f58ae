"""The share of a pipeline's step in which a stage waits, beside (p-1)/(m+p-1)."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import nn

from benchmarks.ranks import answer, run_ranks
from benchmarks.report import Measure, summary
from dto.runtime.transport import Transport

_FORWARD, _BACKWARD = 0.01, 0.02
"""Seconds that a stage sleeps for a micro-batch instead of computing: one core carries four."""
_MANY = ((2, 4), (4, 4), (4, 8))
"""Stages and micro-batches."""


def run(quick: bool) -> list[Measure]:
    """All schedules in one set of four ranks; --quick: fewer steps of each."""
    found = run_ranks("pipeline_bubble", "gloo", 4, {"BENCH_STEPS": "3" if quick else "15"})
    measures = []
    for name, shares in found.items():
        schedule, stages, _, micro_batches, _ = name.split("_", 4)
        p, m = int(stages), int(micro_batches) * (2 if schedule == "interleaved" else 1)
        measures += [
            summary(f"pipeline_bubble.{name}.share", "of the step", shares),
            summary(f"pipeline_bubble.{name}.theory", "of the step", [(p - 1) / (m + p - 1)]),
        ]
    return measures


class _Pause(torch.autograd.Function):
    """The identity, after a while; `slept` adds up how long it really was."""

    slept = 0.0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, share: float) -> torch.Tensor:
        ctx.share = share
        _sleep(_FORWARD * share)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        _sleep(_BACKWARD * ctx.share)
        return grad, None


def _sleep(seconds: float) -> None:
    began = time.perf_counter()
    time.sleep(seconds)
    _Pause.slept += time.perf_counter() - began


class _Layer(nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.weight = share, nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _Pause.apply(x * self.weight, self.share)
        return found


def _shares(transport: Transport, schedule: str, micro_batches: int, steps: int) -> list[float]:
    """What part of each step this rank did not sleep: it waited, or sent and received."""
    import dto

    chunks = 2 if schedule == "interleaved" else 1
    count = transport.size * chunks
    model = nn.Sequential(*(_Layer(1 / chunks) for _ in range(count)))
    pipe = dto.Pipeline(
        model, micro_batches, schedule, loss=nn.functional.mse_loss,
        chunks=chunks, costs=[1.0] * count, transport=transport,
    )  # fmt: skip
    batch = torch.ones(micro_batches, 4)
    found = []
    for step in range(steps + 1):
        transport.barrier()
        began, _Pause.slept = time.perf_counter(), 0.0
        pipe.step(batch, batch)
        if step:  # the first also says what shapes are coming
            found.append(1 - _Pause.slept / (time.perf_counter() - began))
    return found


def _measure(transport: Transport) -> dict[str, list[float]]:
    told: dict[str, list[float]] = {}
    for stages, micro_batches in _MANY:
        part = transport.split([list(range(stages)), *([r] for r in range(stages, 4))])
        for schedule in ("gpipe", "1f1b", "interleaved"):
            name = f"{schedule}_{stages}_stages_{micro_batches}_micro_batches"
            if transport.rank < stages:
                told[name] = _shares(part, schedule, micro_batches, int(os.environ["BENCH_STEPS"]))
            transport.barrier()
    return told


if __name__ == "__main__":
    answer(_measure)
