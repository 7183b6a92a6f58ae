"""Cases of data parallelism beyond those of programs/collective.py."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import nn

import dto
from dto.runtime.data_parallel import Control, DataParallel
from dto.runtime.transport import Transport


def small() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 5), nn.Linear(5, 3))
    return model.double()


def batch(rank: int, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * rank + number)
    return torch.randn(4, 7, generator=generator, dtype=torch.float64)


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def synchronises_later(transport: Transport) -> dict[str, Any]:
    """Two backward passes that send nothing, then one call that does, beside doing it at once."""
    later, at_once = small(), small()
    parallel = DataParallel(later, transport, lambda: Control(samples=4.0), capacity_bytes=200)
    reference = DataParallel(at_once, transport, capacity_bytes=200)
    for number in range(2):
        with parallel.no_sync():
            later(batch(transport.rank, number)).square().mean().backward()
        with reference.no_sync() if number == 0 else contextlib.nullcontext():
            at_once(batch(transport.rank, number)).square().mean().backward()
    parallel.synchronise()
    told = parallel.take_control()
    same = torch.equal(gradients(later), gradients(at_once))
    before = float(gradients(later).norm())
    norm = float(parallel.clip_grad_norm(before / 2))
    return {
        "same": same,
        "samples": told.samples if told else None,
        "norm": norm / before,
        "clipped": float(gradients(later).norm()) / before,
    }


def joins_by_itself(transport: Transport) -> list[float]:
    """Without a transport it is in step with the whole world, which it leaves running."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, transport.rank + 1.0)
    parallel = dto.DataParallel(model)
    started = model.weight.item()
    model(torch.full((1, 1), float(transport.rank))).sum().backward()
    assert model.weight.grad is not None
    parallel.close()
    transport.barrier()
    return [started, model.weight.grad.item(), float(parallel.transport.size)]


def follows_the_buffers_of_rank_0(transport: Transport) -> list[Any]:
    """Running means before each synchronised forward and after its backward: alike everywhere?"""
    torch.manual_seed(transport.rank)
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5))
    parallel = DataParallel(model, transport)
    calls: list[int] = []
    parallel.broadcast_buffers = lambda: calls.append(len(found))  # type: ignore[method-assign]
    found: list[int] = []
    for number in range(6):
        silent = number in (2, 3)
        if number == 4:
            del parallel.broadcast_buffers
        with parallel.no_sync() if silent else contextlib.nullcontext():
            output = model(batch(transport.rank, number).float())
            output.square().mean().backward()
        means = transport.all_gather_object(model[1].running_mean.tolist())
        counts = transport.all_gather_object(int(model[1].num_batches_tracked))
        found.append(len({str(pair) for pair in zip(means, counts, strict=True)}))
    return [found, calls]


class Named(nn.Module):
    """Called by keyword; with BatchNorm, and a part that can be thawed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, *, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.norm(self.first(x)))
        return found


def trains_like_torch(transport: Transport) -> list[float]:
    """Both backends through accumulation, an uneven batch, later averaging and thawing."""
    trained, copies = [], []
    for backend in ("dto", "torch"):
        torch.manual_seed(transport.rank)
        model = Named().double()
        model.first.requires_grad_(False)
        parallel = DataParallel(model, transport, backend=backend)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for number in range(8):
            optimizer.zero_grad()
            parallel.set_weight(4 + transport.rank if number == 3 else 4, 4 * transport.size)
            if number == 5:
                model.first.requires_grad_(True)
            with parallel.no_sync() if number in (2, 6) else contextlib.nullcontext():
                model(x=batch(transport.rank, number)).square().mean().backward()
            if number == 6:
                parallel.synchronise()
            if number == 2:
                model(x=batch(transport.rank, 20)).square().mean().backward()
            optimizer.step()
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        copies.append(copy.deepcopy(model))
        copies[-1](x=batch(0, 0))
    return [float((trained[0] - trained[1]).norm() / trained[0].norm())]
