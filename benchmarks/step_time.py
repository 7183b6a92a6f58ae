"""Seconds of a step: dto beside torch's DDP by hand, and on Horovod beside Horovod by hand."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.ranks import has_horovod, run_ranks
from benchmarks.report import Measure, ratio

_RANKS, _BATCH, _STEPS = 2, 32, 12
Case = Callable[[], float]


def run(quick: bool) -> list[Measure]:
    """Both sides live in one set of processes, and blocks are shuffled alike on every rank."""
    blocks = 8 if quick else 40
    measures = []
    for backend, peer in (("gloo", "torch"), ("horovod", "horovod_by_hand")):
        rows = _measure(backend, blocks)
        if rows is not None:
            measures += [
                ratio(f"step_time.{backend}.dto_over_{peer}", rows["dto"], rows["peer"]),
                ratio(f"step_time.{backend}.a_over_a", rows["again"], rows["peer"]),
            ]
    return measures


def _measure(backend: str, blocks: int) -> dict[str, list[float]] | None:
    """Seconds a step by case and block; None where Horovod is not installed."""
    if backend == "horovod" and not has_horovod():
        return None
    # dto would switch Horovod's own fusion off, and the peer needs it: both run with it on
    more = {"HOROVOD_FUSION_THRESHOLD": str(128 << 20), "BENCH_BLOCKS": str(blocks)}
    threads = max(1, (os.cpu_count() or 1) // _RANKS)
    found: dict[str, list[float]] = run_ranks("step_time", backend, _RANKS, more, threads=threads)
    return found


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [256, 1024, 1024, 1024, 512, 10]
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    rows = _RANKS * _BATCH * _STEPS
    return TensorDataset(
        torch.randn(rows, 256, generator=generator),
        torch.randint(10, (rows,), generator=generator),
    )


def _dto_case() -> Case:
    import dto

    trainer = dto.DistributedTrainer(verbose=False, checkpoint_interval=0, auto_scale_lr=False)
    model = trainer.prepare_model(_model())
    optimizer = trainer.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.01), model)
    loader = trainer.prepare_dataloader(DataLoader(_data(), batch_size=_BATCH, shuffle=True))
    return _timed(model, optimizer, loader, trainer)


def _timed(model: nn.Module, optimizer: Any, loader: Any, trainer: Any) -> Case:
    """An epoch of what `fit` does for each step, without its validation and final model."""
    from dto.runtime.epochs import Meter, train_epoch

    def case() -> float:
        trainer.meter = Meter()
        began = time.perf_counter()
        train_epoch(
            model=model, train_loader=loader, optimizer=optimizer, device=trainer.device,
            criterion=nn.functional.cross_entropy, trainer=trainer, epoch=0,
        )  # fmt: skip
        return (time.perf_counter() - began) / _STEPS

    return case


def _by_hand(model: nn.Module, optimizer: Any) -> Case:
    """The loop of the tutorials: DistributedSampler, loss summed up for the log."""
    from torch.utils.data.distributed import DistributedSampler

    data = _data()
    rank = int(os.environ["RANK"])
    sampler: DistributedSampler[Any] = DistributedSampler(data, _RANKS, rank)
    loader = DataLoader(data, batch_size=_BATCH, sampler=sampler)

    def case() -> float:
        began = time.perf_counter()
        total = 0.0
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return (time.perf_counter() - began) / _STEPS

    return case


def _peer_case() -> Case:
    model = _model()
    if os.environ["DTO_BACKEND"] == "gloo":
        wrapped = nn.parallel.DistributedDataParallel(model)
        return _by_hand(wrapped, torch.optim.SGD(model.parameters(), lr=0.01))
    import horovod.torch as hvd

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    wrapped_optimizer = hvd.DistributedOptimizer(
        optimizer, named_parameters=model.named_parameters()
    )
    return _by_hand(model, wrapped_optimizer)


def rank_main() -> None:
    """Measure every case in every block, in an order that all ranks draw alike."""
    ours = _dto_case()  # joins the world first; the peers use the same process group
    peer = _peer_case()
    cases: dict[str, Case] = {"dto": ours, "peer": peer, "again": peer}
    for case in cases.values():
        case()
    order, rows = random.Random(0), {name: list[float]() for name in cases}
    for _ in range(int(os.environ["BENCH_BLOCKS"])):
        for name in order.sample(sorted(cases), len(cases)):
            rows[name].append(cases[name]())
    if os.environ["RANK"] == "0":
        print(json.dumps(rows))


if __name__ == "__main__":
    rank_main()
