"""Cases of ZeRO: beside each sharded run, the same steps by one process."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dto
from dto.runtime.transport import Transport

UNITS = ["layers.*"]
ROWS = [8, 12, 7, 8, 5, 3, 8, 9]  # samples of each step's batch: more, fewer, hardly any


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width + 1), nn.Linear(2 * width + 1, width)

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        return {"out": [x + self.narrow(torch.tanh(self.wide(self.norm(x))))]}


class Net(nn.Module):
    """Odd sizes, weights that are tied, outputs that are not tensors, a layer used twice."""

    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        self.token = nn.Embedding(11, 5)
        self.layers = nn.ModuleList(Layer(5) for _ in range(3))
        self.head = nn.Linear(5, 11, bias=False)
        self.head.weight = self.token.weight
        self.order, self.recompute = [0, 1, 2, 1], recompute

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.token(ids)
        for number in self.order:
            layer = self.layers[number]
            found = checkpoint(layer, x, use_reentrant=False) if self.recompute else layer(x)
            x = found["out"][0]
        logits: torch.Tensor = self.head(x)
        return logits


def make(dtype: torch.dtype = torch.float64, recompute: bool = False) -> Net:
    torch.manual_seed(3)
    return Net(recompute).to(dtype)


def grouped(model: nn.Module, kind: str = "adamw") -> torch.optim.Optimizer:
    """Two groups, one without weight decay."""
    thin = [p for p in model.parameters() if p.ndim < 2 and p.requires_grad]
    thick = [p for p in model.parameters() if p.ndim >= 2 and p.requires_grad]
    groups = [{"params": thin, "weight_decay": 0.0}, {"params": thick, "weight_decay": 0.1}]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    return torch.optim.AdamW(groups, lr=0.02)


def batch(step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 11, (2, rows), generator=torch.Generator().manual_seed(100 + step))
    return ids[0], ids[1]


def loss_of(model: nn.Module, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(ids).double(), wanted)


def train_alone(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro: int = 1,
    clip: float = 0.0,
) -> list[float]:
    norms = []
    for step, rows in enumerate(ROWS):
        optimizer.zero_grad()
        ids, wanted = batch(step, rows * micro)
        for part in range(micro):
            own = slice(part * rows, (part + 1) * rows)
            (loss_of(model, ids[own], wanted[own]) / micro).backward()
        if clip:
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip)))
        optimizer.step()
    return norms


def train(zero: dto.Zero, micro: int = 1, clip: float = 0.0) -> list[float]:
    """The same steps, each rank with its share; one without any only keeps step."""
    rank, size, norms = zero.transport.rank, zero.transport.size, []
    for step, rows in enumerate(ROWS):
        zero.optimizer.zero_grad()
        ids, wanted = batch(step, rows * micro)
        for part in range(micro):
            mine = torch.arange(part * rows, (part + 1) * rows).tensor_split(size)[rank]
            zero.set_weight(len(mine), rows)
            mine = mine if len(mine) else torch.zeros(1, dtype=torch.long)
            waits = part < micro - 1
            with zero.no_sync() if waits else contextlib.nullcontext():
                (loss_of(zero.model, ids[mine], wanted[mine]) / micro).backward()
        if clip:
            norms.append(float(zero.clip_grad_norm(clip)))
        zero.optimizer.step()
    return norms


def error(zero: dto.Zero, model: nn.Module) -> float:
    """The largest difference of any parameter, relative to the largest one of its tensor."""
    with zero.whole():
        pairs = zip(zero.model.parameters(), model.parameters(), strict=True)
        return max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in pairs)


def matrix(transport: Transport, backend: str = "dto", stages: tuple[int, ...] = (1, 2, 3)) -> Any:
    """{case: error} of stages, optimizers, precisions and accumulation."""
    found = {}
    for kind, dtype, micro in [
        ("sgd", torch.float64, 1),
        ("adamw", torch.float64, 3),
        ("adamw", torch.float32, 1),
    ]:
        alone = make(dtype)
        train_alone(alone, grouped(alone, kind), micro)
        for stage in stages:
            model = make(dtype)
            optimizer = grouped(model, kind)
            zero = dto.Zero(
                model, optimizer, stage, transport=transport, units=UNITS, backend=backend
            )
            train(zero, micro)
            found[f"{kind} {str(dtype)[-2:]} {micro} {stage}"] = error(zero, alone)
    return found


STAGES = (1, 2, 3)


def wrap(transport: Transport, model: Net, stage: int = 3, **options: Any) -> dto.Zero:
    options = {"units": UNITS, **options}
    return dto.Zero(model, grouped(model), stage, transport=transport, **options)
