"""One rank of the matrix in test_runtime_ranks: runs every case, prints {case: result} as JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dto.errors import WorldError
from dto.runtime.data import share
from dto.runtime.data_parallel import Control, DataParallel, no_sync
from dto.runtime.transport import Transport, open_transport
from dto.runtime.world import read_world

world = read_world(os.environ)
transport: Transport = open_transport("auto", world, torch.device("cpu"), os.environ)
RANK, SIZE = transport.rank, transport.size


def model_of(dtype: torch.dtype, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)
    ).to(dtype)


def batches(dtype: torch.dtype, sizes: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    xs = [torch.randn(n, 7, generator=generator, dtype=torch.float64).to(dtype) for n in sizes]
    return [(x, torch.arange(len(x)) % 3) for x in xs]


def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    nn.functional.cross_entropy(model(x), y).backward()


def part(
    owner: DataParallel, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's part; a rank without one borrows the first sample, as the loader does."""
    mine = share(len(x), SIZE, RANK)
    own = mine.stop - mine.start
    owner.set_weight(own, len(x))
    return (x[mine], y[mine]) if own else (x[:1], y[:1])


def distance(left: nn.Module, right: nn.Module) -> float:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def equals_one_process(dtype: torch.dtype) -> float:
    """Uneven batches, down to one sample for all ranks, against the same batches in one process."""
    ours, alone = model_of(dtype, seed=RANK), model_of(dtype)
    owner = DataParallel(ours, transport, capacity_bytes=200)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in (ours, alone)]
    for x, y in batches(dtype, [12, 12, 7, 1, 11]):
        for optimizer in optimizers:
            optimizer.zero_grad()
        step(ours, *part(owner, x, y))
        step(alone, x, y)
        for optimizer in optimizers:
            optimizer.step()
    return distance(ours, alone)


def replicas_are_equal() -> int:
    ours = model_of(torch.float32, seed=RANK)
    owner = DataParallel(ours, transport)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    for x, y in batches(torch.float32, [10] * 20):
        optimizer.zero_grad()
        step(ours, *part(owner, x, y))
        optimizer.step()
    data = b"".join(p.detach().numpy().tobytes() for p in ours.parameters())
    return len(set(transport.all_gather_object(hashlib.sha256(data).hexdigest())))


def accumulates() -> float:
    ours, alone = model_of(torch.float64), model_of(torch.float64)
    owner = DataParallel(ours, transport, capacity_bytes=200)
    rows = batches(torch.float64, [8, 5, 3])
    for number, (x, y) in enumerate(rows):
        mine = part(owner, x, y)
        with no_sync(ours) if number < 2 else contextlib.nullcontext():
            step(ours, *mine)
        step(alone, x, y)
    pairs = zip(ours.parameters(), alone.parameters(), strict=True)
    return max(float((a.grad - b.grad).norm()) for a, b in pairs if a.grad is not None)


class Forked(nn.Module):
    """Which of its layers is used depends on the rank; one is used by none."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(2, 2)
        self.first = nn.Linear(2, 2)
        self.none = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.all(x)
        return self.first(y) if RANK == 0 else y


def unused_parameters() -> list[Any]:
    torch.manual_seed(0)
    ours = Forked()
    DataParallel(ours, transport)
    ours(torch.ones(1, 2)).sum().backward()
    first = ours.first.bias.grad
    return [ours.none.weight.grad is None, None if first is None else first.tolist()]


def swapped_freezing() -> list[float]:
    """As many parameters are trained as before, but others."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    ours[0].requires_grad_(False)
    DataParallel(ours, transport)
    ours.requires_grad_(True)
    ours[1].requires_grad_(False)
    ours(torch.full((1, 2), float(RANK))).sum().backward()
    gradient: list[float] = ours[0].weight.grad.flatten().tolist()
    return gradient


def one_stop_is_heard_by_all() -> list[float]:
    ours = model_of(torch.float64)
    mine = Control(stop=float(RANK == SIZE - 1), samples=RANK + 1.0, loss=2.0)
    owner = DataParallel(ours, transport, lambda: mine)
    step(ours, *batches(torch.float64, [4])[0])
    heard = owner.take_control()
    assert heard is not None and owner.take_control() is None
    return [heard.stop, heard.samples, float(heard.loss)]


def borrowed_nonsense_counts_nothing() -> bool:
    ours = model_of(torch.float32)
    owner = DataParallel(ours, transport)
    x, y = batches(torch.float32, [1])[0]
    mine, labels = part(owner, x, y)
    step(ours, mine * (math.nan if RANK else 1.0), labels)
    return all(bool(p.grad.isfinite().all()) for p in ours.parameters() if p.grad is not None)


def buffers_follow_rank_0() -> int:
    ours = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    owner = DataParallel(ours, transport)
    begun: list[list[float]] = []
    ours[1].register_forward_pre_hook(lambda m, args: begun.append(m.running_mean.tolist()))
    for _ in range(3):
        ours(torch.randn(4, 3) + RANK).sum().backward()
    assert len(begun) == 3 and owner.model is ours
    return len({str(seen) for seen in transport.all_gather_object(begun[1:])})


def thawed_parameters_are_averaged() -> float:
    ours, alone = model_of(torch.float64), model_of(torch.float64)
    for m in (ours, alone):
        m[0].requires_grad_(False)
    owner = DataParallel(ours, transport)
    x, y = batches(torch.float64, [9])[0]
    step(ours, *part(owner, x, y))
    for m in (ours, alone):
        m.zero_grad()
        m[0].requires_grad_(True)
    step(ours, *part(owner, x, y))
    step(alone, x, y)
    return float((ours[0].weight.grad - alone[0].weight.grad).norm())


def another_model_is_refused() -> str:
    try:
        DataParallel(nn.Linear(2, 2 + RANK % 2), transport)
    except WorldError as error:
        return str(error)
    return ""


def equals_torch_ddp() -> float:
    """The same gradients as torch's own DDP, bucket by bucket; Gloo only."""
    if transport.name != "gloo":
        return 0.0
    ours, theirs = model_of(torch.float64), model_of(torch.float64)
    DataParallel(ours, transport, capacity_bytes=300)
    wrapped = nn.parallel.DistributedDataParallel(theirs)
    x, y = batches(torch.float64, [6 * SIZE])[0]
    mine = share(len(x), SIZE, RANK)
    step(ours, x[mine], y[mine])
    step(wrapped, x[mine], y[mine])
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max(float((a.grad - b.grad).norm()) for a, b in pairs if a.grad is not None)


CASES: dict[str, Callable[[], Any]] = {
    "float32": lambda: equals_one_process(torch.float32),
    "float64": lambda: equals_one_process(torch.float64),
    "ddp": equals_torch_ddp,
    "replicas": replicas_are_equal,
    "accumulation": accumulates,
    "unused": unused_parameters,
    "swapped": swapped_freezing,
    "stop": one_stop_is_heard_by_all,
    "borrowed": borrowed_nonsense_counts_nothing,
    "buffers": buffers_follow_rank_0,
    "thawed": thawed_parameters_are_averaged,
    "refused": another_model_is_refused,
}

if __name__ == "__main__":
    results = {name: case() for name, case in CASES.items()}
    everyones = transport.all_gather_object(results)
    transport.barrier()
    if RANK == 0:
        print(json.dumps(everyones))
    transport.close()
