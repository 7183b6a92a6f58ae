"""Samples a second and the peak memory of a rank by strategy: a small GPT on two ranks."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.memory import highest_mib
from benchmarks.ranks import answer, run_ranks
from benchmarks.report import Measure, summary
from benchmarks.workloads import gpt, texts
from dto.runtime.transport import Transport

_RANKS, _BATCH = 2, 8
Step = Callable[[torch.Tensor, torch.Tensor], None]
"""Trains on a global batch, of which this rank takes its part."""


def run(quick: bool) -> list[Measure]:
    """All speeds in one set of processes; each peak in a set of its own."""
    blocks = {"BENCH_BLOCKS": "4" if quick else "25", "BENCH_CASE": "all"}
    rates = run_ranks("strategies", "gloo", _RANKS, blocks)
    measures = []
    for name, samples in rates.items():
        peak = run_ranks("strategies", "gloo", _RANKS, {"BENCH_CASE": name})
        measures += [
            summary(f"strategies.{name}.samples_per_second", "samples/s", samples),
            summary(f"strategies.{name}.peak_mib", "MiB", peak),
        ]
    return measures


def _model() -> nn.Module:
    torch.manual_seed(0)
    return gpt(width=256, layers=4)


def _stepping(model: nn.Module, optimizer: Any, transport: Transport, after: Any = None) -> Step:
    """The loop of anybody; `after` is done between backward and the optimizer's step."""
    mine = slice(transport.rank * _BATCH, (transport.rank + 1) * _BATCH)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[mine]), targets[mine]).backward()
        if after is not None:
            after()
        optimizer.step()

    return step


def _vanilla(transport: Transport) -> Step:
    import dto

    model = _model()
    dto.DataParallel(model, transport)
    return _stepping(model, torch.optim.AdamW(model.parameters()), transport)


def _zero2(transport: Transport) -> Step:
    import dto

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    dto.Zero(model, optimizer, stage=2, transport=transport)
    return _stepping(model, optimizer, transport)


def _ring(transport: Transport) -> Step:
    """Communication of one's own: gradients in one piece, by the ring all-reduce."""
    import dto

    model = _model()
    params = list(model.parameters())

    def average() -> None:
        flat = torch.cat([p.grad.reshape(-1) for p in params if p.grad is not None])
        dto.all_reduce(flat.div_(transport.size), algorithm="ring")
        for param, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
            param.grad = part.view_as(param)

    return _stepping(model, torch.optim.AdamW(params), transport, average)


def _pipeline(transport: Transport) -> Step:
    import dto

    pipe = dto.Pipeline(_model(), 4, "1f1b", loss=nn.functional.cross_entropy, transport=transport)
    optimizer = torch.optim.AdamW(pipe.parameters())

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad()
        pipe.step(inputs, targets)
        optimizer.step()

    return step


_CASES: dict[str, Callable[[Transport], Step]] = {
    "vanilla": _vanilla,
    "pipeline": _pipeline,
    "zero2": _zero2,
    "ring": _ring,
}


def _peaks(name: str, transport: Transport) -> list[float]:
    """MiB that training added at its peak to what the imports took, by rank."""
    import dto.runtime.collectives
    import dto.runtime.pipeline
    import dto.runtime.zero  # noqa: F401

    before = highest_mib()
    step, (inputs, targets) = _CASES[name](transport), texts(_RANKS * _BATCH).tensors
    for _ in range(2):
        step(inputs, targets)
    return transport.all_gather_object(highest_mib() - before)


def _rates(transport: Transport) -> dict[str, list[float]]:
    """Samples a second, block by block, in an order that all ranks draw alike."""
    cases = {name: make(transport) for name, make in _CASES.items()}
    inputs, targets = texts(_RANKS * _BATCH).tensors
    order, rows = random.Random(0), {name: list[float]() for name in cases}
    for block in range(1 + int(os.environ["BENCH_BLOCKS"])):
        for name in order.sample(list(cases), len(cases)):
            transport.barrier()
            began = time.perf_counter()
            cases[name](inputs, targets)
            if block:  # the first is for warming up
                rows[name].append(len(inputs) / (time.perf_counter() - began))
    return rows


def _measure(transport: Transport) -> Any:
    name = os.environ["BENCH_CASE"]
    return _rates(transport) if name == "all" else _peaks(name, transport)


if __name__ == "__main__":
    answer(_measure)
