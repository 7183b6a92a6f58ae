"""Bytes that a rank holds at ZeRO stages 0 to 3 over the formulae, and the peak beside torch's."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.ranks import answer, run_ranks
from benchmarks.report import Measure, ratio, summary
from benchmarks.step_cases import sharded_by_torch
from benchmarks.workloads import Workload, gpt, texts
from dto.runtime.transport import Transport

_MIB = 1 << 20
_KINDS = ("parameters", "gradients", "optimizer")


def run(quick: bool) -> list[Measure]:
    """Worlds 1 to 4 are parts of one set of ranks; each peak has processes of its own.

    --quick: not world 3, one pair of peaks, of a model of 22 MiB instead of 217.
    """
    quickly = {"BENCH_QUICK": str(int(quick))}
    counted = run_ranks("memory", "gloo", 4, {"BENCH_SIDE": "count", **quickly})
    measures = []
    for case, shares in counted.items():
        kinds = (*_KINDS, "bytes") if case.endswith("4") else ("bytes",)
        measures += [
            summary(f"memory.{case}.{kind}_over_theory", "ratio", shares[kind]) for kind in kinds
        ]
    peaks: dict[str, list[float]] = {"dto": [], "torch": []}
    for _ in range(1 if quick else 3):
        for side, found in peaks.items():
            found.append(run_ranks("memory", "gloo", 2, {"BENCH_SIDE": side, **quickly}))
    measures += [
        summary(f"memory.zero3_peak.{side}_mib", "MiB", found) for side, found in peaks.items()
    ]
    return [*measures, ratio("memory.zero3_peak.dto_over_torch", peaks["dto"], peaks["torch"])]


def theory(stage: int, world: int, numel: int) -> dict[str, float]:
    """Bytes a rank in float32 with Adam's two moments (Rajbhandari et al., "ZeRO", 2020, §5)."""
    cut = [world if stage >= first else 1 for first in (3, 2, 1)]
    parameters, gradients, optimizer = 4 * numel / cut[0], 4 * numel / cut[1], 8 * numel / cut[2]
    return {
        "parameters": parameters,
        "gradients": gradients,
        "optimizer": optimizer,
        "bytes": parameters + gradients + optimizer,
    }


# counting


def _count(transport: Transport) -> dict[str, dict[str, list[float]]]:
    """What is held after a backward and a step, over what the theory says; by rank."""
    found: dict[str, dict[str, list[float]]] = {}
    for world in (1, 2, 4) if _is_quick() else (1, 2, 3, 4):
        outside = [[rank] for rank in range(world, transport.size)]
        part = transport.split([list(range(world)), *outside])
        for stage in range(4):
            mine = _held(stage, part) if transport.rank < world else {}
            everyones = transport.all_gather_object(mine)[:world]
            expected = theory(stage, world, everyones[0]["numel"])
            found[f"zero{stage}_world{world}"] = {
                kind: [held[kind] / bytes_ for held in everyones]
                for kind, bytes_ in expected.items()
            }
    return found


def _held(stage: int, transport: Transport) -> dict[str, float]:
    import dto

    torch.manual_seed(0)
    model = gpt()
    numel = sum(p.numel() for p in model.parameters())
    gc.collect()
    before = _tensors_alive()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if stage:
        strategy: Any = dto.Zero(model, optimizer, stage=stage, transport=transport)
    else:
        strategy = dto.DataParallel(model, transport)
    for _ in range(2):
        optimizer.zero_grad()
        _loss(model, 1).backward()
        optimizer.step()
    gc.collect()
    alive = _tensors_alive()
    grown = {key: size for key, size in alive.items() if before.get(key) != size}
    kinds = _by_kind(model, optimizer)
    kinds["bytes"] = sum({**grown, **_storages(model.parameters())}.values())
    del strategy
    return {**kinds, "numel": float(numel)}


def _loss(model: nn.Module, batch: int) -> torch.Tensor:
    inputs, targets = texts(batch).tensors
    return nn.functional.cross_entropy(model(inputs), targets)


def _by_kind(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    pieces = [p for group in optimizer.param_groups for p in group["params"]]
    holders = [*model.parameters(), *pieces]
    states = [t for state in optimizer.state.values() for t in state.values()]
    return {
        "parameters": sum(_storages(holders).values()),
        "gradients": sum(_storages([p.grad for p in holders]).values()),
        "optimizer": sum(_storages(states).values()),
    }


def _storages(values: Any) -> dict[int, int]:
    """Bytes of the memory behind tensors, each counted once."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def _tensors_alive() -> dict[int, int]:
    """All memory of all tensors in this process, whoever holds them."""
    return _storages(thing for thing in gc.get_objects() if type(thing) in _TENSORS)


_TENSORS = (torch.Tensor, nn.Parameter)

# peaks


def _peak(side: str, transport: Transport) -> float:
    """MiB at the peak of two steps, less what the imports took; the largest of the ranks."""
    import dto

    width, layers = (384, 3) if _is_quick() else (768, 8)
    before = highest_mib()
    workload = Workload(
        lambda: gpt(width, 8, layers), texts, lambda model: list(model.layers), batch=1, steps=2
    )
    model = workload.build()
    if side == "torch":
        model = sharded_by_torch(workload, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    strategy = (
        dto.Zero(model, optimizer, stage=3, transport=transport, units=["layers.*"])
        if side == "dto"
        else None
    )
    for _ in range(workload.steps):
        optimizer.zero_grad()
        _loss(model, workload.batch).backward()
        optimizer.step()
    del strategy
    return max(transport.all_gather_object(highest_mib() - before))


def _is_quick() -> bool:
    return os.environ["BENCH_QUICK"] == "1"


def highest_mib() -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _measure(transport: Transport) -> Any:
    side = os.environ["BENCH_SIDE"]
    return _count(transport) if side == "count" else _peak(side, transport)


if __name__ == "__main__":
    answer(_measure)
