"""What ZeRO tells of its parts, and how they come together; each case is a small run."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

import dto
from dto.runtime.data_parallel import Control
from dto.runtime.transport import Transport
from tests.ranks.zero import (
    STAGES,
    UNITS,
    batch,
    error,
    grouped,
    loss_of,
    make,
    train,
    train_alone,
    wrap,
)


def controls(transport: Transport) -> list[Any]:
    """What every backward brought along; inside no_sync nothing."""
    found: list[Any] = []
    for stage in STAGES:
        mine = Control(1.0, 2.0, float(transport.rank), torch.tensor(0.5))
        zero = wrap(transport, make(), stage, outgoing=lambda mine=mine: mine)
        with zero.no_sync():
            loss_of(zero.model, *batch(0, 4)).backward()
        found.append(zero.take_control())
        zero.synchronise()
        sums = zero.take_control()
        assert sums is not None
        found.append([sums.stop, sums.samples, sums.save, sums.loss])
        found.append(zero.take_control())
        loss_of(zero.model, *batch(0, 4)).backward()
        found.append(zero.take_control() is not None)
    return found


def kept_apart(transport: Transport) -> list[Any]:
    """Accumulated inside no_sync alone, then synchronised: error; and step() without that."""
    alone = make()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for rank in range(transport.size):
        for part in range(2):
            loss_of(alone, *batch(10 * rank + part, 4)).div(transport.size).backward()
    optimizer.step()
    found: list[Any] = []
    for stage in STAGES:
        model = make()
        mine = torch.optim.SGD(model.parameters(), lr=0.1)
        zero = dto.Zero(model, mine, stage, transport=transport, units=UNITS)
        with zero.no_sync():
            for part in range(2):
                loss_of(model, *batch(10 * transport.rank + part, 4)).backward()
        if stage == 1:
            try:
                mine.step()
            except dto.errors.UsageError as refused:
                found.append(str(refused))
        zero.synchronise()
        mine.step()
        found.append(error(zero, alone))
    return found


def held_parts(transport: Transport, backend: str = "dto") -> list[Any]:
    """Whether everybody's held parts make up the model and the moments, by stage."""
    alone = make()
    optimizer = grouped(alone)
    train_alone(alone, optimizer)
    names = dict(alone.named_parameters())
    found: list[Any] = []
    for stage in STAGES if backend == "dto" else (2, 3):
        zero = wrap(transport, make(), stage, backend=backend)
        train(zero)
        mine = [
            (part.name, part.begin, part.end, part.of(held.tensor), part.of(state["exp_avg"]))
            for held in zero.held()
            for state in [zero.optimizer.state[held.tensor]]
            for part in held.parts
        ]
        covered = {name: torch.zeros(p.numel()) for name, p in names.items()}
        worst = 0.0
        for name, begin, end, values, moments in sum(transport.all_gather_object(mine), []):
            covered[name][begin:end] += 1
            param = names[name]
            for got, wanted in [(values, param), (moments, optimizer.state[param]["exp_avg"])]:
                gap = (got - wanted.detach().reshape(-1)[begin:end]).abs().max()
                worst = max(worst, float(gap))
        found.append([all(bool((c == 1).all()) for c in covered.values()), worst])
    return found


def held_by_torch(transport: Transport) -> list[Any]:
    return held_parts(transport, "torch")


def taken_over(transport: Transport) -> list[float]:
    """An optimizer that has stepped before keeps its state: errors by stage."""
    alone = make()
    optimizer = grouped(alone)
    train_alone(alone, optimizer)
    train_alone(alone, optimizer)
    found = []
    for stage in STAGES:
        model = make()
        mine = grouped(model)
        train_alone(model, mine)
        zero = dto.Zero(model, mine, stage, transport=transport, units=UNITS)
        train(zero)
        found.append(error(zero, alone))
    return found


def alone_inside_whole(transport: Transport) -> list[Any]:
    """Rank 0 evaluates and copies the model; then reload follows changed pieces."""
    found: list[Any] = []
    for stage in STAGES:
        zero = wrap(transport, make(), stage)
        train(zero)
        with zero.whole():
            logits = zero.model(batch(0, 4)[0])
            if transport.rank == 0:
                other = copy.deepcopy(zero.model)
                found.append(torch.equal(other(batch(0, 4)[0]), logits))
        with torch.no_grad():
            for held in zero.held():
                held.tensor.fill_(0.5)
        zero.reload()
        with zero.whole():
            found.append(all(bool((p == 0.5).all()) for p in zero.model.parameters()))
    return found


class Table(nn.Module):
    """Hands out its own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.arange(12.0).view(4, 3))

    def forward(self, count: int) -> torch.Tensor:
        return self.rows[:count]


class Lender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Table(), nn.Linear(3, 2, bias=False)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers[1](x + self.layers[0](2))
        return found


def lent_memory(transport: Transport) -> list[bool]:
    """A unit whose output is part of its parameter, beside the same without ZeRO."""
    torch.manual_seed(1)
    alone = Lender()
    model = copy.deepcopy(alone)
    zero = dto.Zero(
        model, torch.optim.SGD(model.parameters(), lr=0.1), transport=transport, units=UNITS
    )
    x = torch.ones(2, 3)
    wanted = alone(x)
    wanted.sum().backward()
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    found = [torch.equal(model(x), wanted)]
    with torch.no_grad():
        found.append(torch.equal(model(x), wanted))
    model(x).sum().backward()
    zero.optimizer.step()
    found.append(error(zero, alone) < 1e-6)
    return found
