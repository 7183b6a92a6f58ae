"""Seconds of a step: dto beside DDP, fully_shard and Schedule1F1B of torch, and beside Horovod."""

from __future__ import annotations

import gc
import os
import random

from benchmarks.ranks import answer, has_horovod, run_ranks
from benchmarks.report import Measure, ratio
from benchmarks.step_cases import STRATEGIES, Case
from benchmarks.workloads import WORKLOADS
from dto.runtime.transport import Transport

_PEERS = {"ddp": "torch", "zero3": "fully_shard", "pipeline": "schedule_1f1b"}
_QUICK = {
    "gloo": "ddp/tiny_gpt ddp/resnet18 zero3/tiny_gpt pipeline/tiny_gpt",
    "horovod": "ddp/tiny_gpt",
}
_FULL = {
    "gloo": "ddp/tiny_gpt ddp/resnet18 ddp/mlp zero3/tiny_gpt zero3/resnet18 zero3/mlp"
    " pipeline/tiny_gpt pipeline/resnet18",
    "horovod": "ddp/tiny_gpt ddp/resnet18 ddp/mlp",
}
Rows = dict[str, list[float]]


def run(quick: bool) -> list[Measure]:
    """For each world one set of processes; the MLP on 2 ranks; --quick: 2 ranks, fewer blocks."""
    measures = []
    for world in (2,) if quick else (2, 4):
        for backend in ("gloo", "horovod"):
            if backend == "gloo" or has_horovod():
                for name, rows in _measure(backend, world, quick).items():
                    measures += _ratios(name, backend, world, rows)
    return measures


def _ratios(name: str, backend: str, world: int, rows: Rows) -> list[Measure]:
    strategy, model = name.split("/")
    where = f"step_time.{strategy}_{model}_{world}_ranks"
    if backend == "horovod":
        where += "_horovod"
    peer = _PEERS[strategy] if backend == "gloo" else "horovod_by_hand"
    return [
        ratio(f"{where}.dto_over_{peer}", rows["dto"], rows["peer"]),
        ratio(f"{where}.a_over_a", rows["again"], rows["peer"]),
    ]


def _measure(backend: str, world: int, quick: bool) -> dict[str, Rows]:
    """Seconds a step by group, case and block."""
    groups = (_QUICK if quick else _FULL)[backend].split()
    variables = {
        "BENCH_BLOCKS": "6" if quick else "16",
        "BENCH_GROUPS": " ".join(g for g in groups if world == 2 or not g.endswith("/mlp")),
        # dto would switch Horovod's own fusion off, and the peer needs it: both run with it on
        "HOROVOD_FUSION_THRESHOLD": str(128 << 20),
    }
    threads = max(1, (os.cpu_count() or 1) // world)
    found: dict[str, Rows] = run_ranks("step_time", backend, world, variables, threads=threads)
    return found


def _measure_groups(transport: Transport) -> dict[str, Rows]:
    """Group after group; what a group built is gone before the next."""
    found: dict[str, Rows] = {}
    for group in os.environ["BENCH_GROUPS"].split():
        strategy, model = group.split("/")
        cases = STRATEGIES[strategy](WORKLOADS[model], transport)
        found[group] = _in_blocks(cases, transport, int(os.environ["BENCH_BLOCKS"]))
        del cases
        gc.collect()
    return found


def _in_blocks(cases: dict[str, Case], transport: Transport, blocks: int) -> Rows:
    """Every case in every block, in an order that all ranks draw alike."""
    for case in cases.values():
        case()
    order, rows = random.Random(0), {name: list[float]() for name in cases}
    for _ in range(blocks):
        for name in order.sample(sorted(cases), len(cases)):
            transport.barrier()
            rows[name].append(cases[name]())
    return rows


if __name__ == "__main__":
    answer(_measure_groups)
