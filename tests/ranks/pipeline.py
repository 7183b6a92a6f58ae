"""Cases of the pipeline as the trainer uses it."""

from __future__ import annotations

import copy
import gc
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dto.errors import DtoError
from dto.runtime.data_parallel import DataParallel
from dto.runtime.pipeline import Pipeline
from dto.runtime.transport import Transport

cross_entropy = nn.functional.cross_entropy
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
}
Batch = tuple[torch.Tensor, torch.Tensor]


class Counting(nn.Module):
    """Has buffers, one of them not saved, and works otherwise in training than else."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        return torch.tanh(x) if self.training else torch.tanh(x) * 2


class Tied(nn.Module):
    """The embedding is the output layer as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(13, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), Counting(), nn.Linear(6, 6), Counting())
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.embed.weight

    def pipeline_stages(self) -> list[nn.Module]:
        return [self.embed, *self.body, self.head]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.body(self.embed(x)))
        return y


def plain(layers: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    widths = [7, 11, 9, 5, 8, 6, 10][:layers]
    hidden = [[nn.Linear(a, b), nn.Tanh()] for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain(*hidden), nn.Linear(widths[-1], 3)).double()


def batch_of(rows: int, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 7, generator=generator, dtype=torch.float64)
    return x, torch.arange(rows) % 3


def distance(ours: Any, theirs: nn.Module) -> float:
    wanted = {name: value.detach() for name, value in theirs.named_parameters()}
    return max(
        [float((p.detach() - wanted[n]).norm()) for n, p in ours.named_parameters()] or [0.0]
    )


def share_right(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (output.argmax(1) == targets).double().mean()


def evaluates(transport: Transport) -> list[float]:
    """How far each batch's loss and share are from one process; 0 where modes came back."""
    off = []
    for schedule, backend in (("1f1b", "dto"), ("interleaved", "dto"), ("gpipe", "torch")):
        model = Tied().double()
        alone = copy.deepcopy(model).eval()
        pipeline = Pipeline(
            model, 6, schedule, loss=cross_entropy, backend=backend, transport=transport
        )
        for rows in (12, 13, 3, 1, 12):
            x, y = torch.randint(13, (2, rows), generator=torch.Generator().manual_seed(rows))
            loss, right = pipeline.evaluate(x, y, share_right)
            output = alone(x)
            off.append(abs(loss - cross_entropy(output, y).item()))
            off.append(abs(right - share_right(output, y).item()))
            if rows == 13 and backend == "dto":  # training in between
                pipeline.step(x, y)
        off.append(float(not all(module.training for module in pipeline.module.modules())))
    return off


def grid(transport: Transport, optimizer: str, schedule: str) -> list[float]:
    """Two pipelines of two stages share uneven batches; the distance from one process."""
    stages = transport.split([[0, 1], [2, 3]])
    replicas = transport.split([[0, 2], [1, 3]])
    model, alone = Tied().double(), Tied().double()
    mine = OPTIMIZERS[optimizer](model.parameters())
    theirs = OPTIMIZERS[optimizer](alone.parameters())
    pipeline = Pipeline(model, 2, schedule, loss=cross_entropy, transport=stages)
    pipeline.adopt(mine)
    parallel = DataParallel(pipeline.module, replicas)
    generator, off = torch.Generator().manual_seed(3), []
    for rows in (16, 7, 16, 6):
        x, y = torch.randint(13, (2, rows), generator=generator)
        own = torch.arange(rows).tensor_split(2)[replicas.rank]
        mine.zero_grad()
        with parallel.no_sync():
            for half in own.tensor_split(1 if rows < 16 else 2):
                scale = len(half) * 2 / rows
                loss = pipeline.step(x[half], y[half], scale)
        parallel.synchronise()
        mine.step()
        theirs.zero_grad()
        off.append(abs(loss - cross_entropy(alone(x[half]), y[half]).item()))
        cross_entropy(alone(x), y).backward()
        theirs.step()
    with pipeline.whole():
        off.append(distance(model, alone))
    return [distance(pipeline, alone), *off]


def adopts(transport: Transport) -> dict[str, Any]:
    """What stays of a model, and of an optimizer that knew all of it."""
    model = Tied().double()
    groups = [
        {"params": list(model.body.parameters()), "lr": 0.5},
        {"params": [model.embed.weight], "lr": 0.25},
    ]
    optimizer = torch.optim.AdamW(groups)
    model(torch.zeros(1, dtype=torch.int64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    shapes = [value.shape for value in model.parameters()]
    lists = [group["params"] for group in optimizer.param_groups]
    pipeline = Pipeline(model, 2, loss=cross_entropy, transport=transport, costs=[1.0] * 6)
    pipeline.adopt(optimizer)
    pipeline.step(torch.arange(4), torch.arange(4))
    optimizer.step()
    with pipeline.whole():
        sums = [float(value.detach().sum()) for value in model.parameters()]
    names = {id(value): name for name, value in model.named_parameters()}
    kept = [group["params"] for group in optimizer.param_groups]
    held = [(part, one.replicas) for one in pipeline.held() for part in one.parts]
    return {
        "groups": [[names[id(p)] for p in params] for params in kept],
        "is in place": all(a is b for a, b in zip(kept, lists, strict=True)),
        "rates": [group["lr"] for group in optimizer.param_groups],
        "states": sorted(names[id(p)] for p in optimizer.state),
        "held": [[part.name, part.shape, replicas] for part, replicas in held],
        "grid": [one.replicas for one in pipeline.held([[0, 3], [1, 4], [2, 5]])],
        "buffers": list(pipeline.held_buffers()),
        "shapes": [value.shape == s for value, s in zip(model.parameters(), shapes, strict=True)],
        "gone": [n for n, value in model.named_parameters() if bool(value.isnan().all())],
        "is whole": all(math.isfinite(value) for value in sums),
        "sums": sums,
    }


def strange_parameter(transport: Transport) -> str:
    model = plain(4)
    optimizer = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(2, 5))], lr=0.1)
    pipeline = Pipeline(model, 2, loss=cross_entropy, transport=transport)
    return refusal(lambda: pipeline.adopt(optimizer))


def memory(transport: Transport) -> float:
    """The share of the model's bytes that the process gave back."""
    model = nn.Sequential(*(nn.Linear(1500, 1500) for _ in range(2 * transport.size)))
    size = sum(value.nbytes for value in model.parameters())
    gc.collect()
    before = _resident_bytes()
    pipeline = Pipeline(model, 2, loss=cross_entropy, transport=transport)
    gc.collect()
    freed = before - _resident_bytes()
    assert sum(1 for _ in pipeline.parameters()) == 4
    return freed / size


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def refusal(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except DtoError as error:
        return str(error)
    return ""


class Wide(nn.Module):
    """A layer whose inner values are larger than what it hands on, and drawn in part."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 90), nn.GELU(), nn.Dropout(0.3), nn.Linear(90, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def computes_again(transport: Transport) -> dict[str, Any]:
    """Gradients and saved bytes of a step, with activation checkpointing and without."""
    found = []
    for is_asked in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(*(Wide() for _ in range(4))).double()
        pipeline = Pipeline(
            model, 4, loss=cross_entropy, transport=transport, checkpoint_activations=is_asked
        )
        sizes: list[int] = []

        def keep(value: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(value.nbytes)
            return value

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            pipeline.step(*batch_of(16))
        found.append(([p.grad for p in pipeline.parameters()], sum(sizes)))
    (plain_gradients, plain_bytes), (gradients, kept_bytes) = found
    pairs = zip(plain_gradients, gradients, strict=True)
    return {"same": all(torch.equal(a, b) for a, b in pairs), "kept": kept_bytes / plain_bytes}


def autocast(transport: Transport) -> list[Any]:
    """The distance from one process under autocast, and from one without."""
    model = plain().float()
    alone = copy.deepcopy(model)
    pipeline = Pipeline(model, 2, loss=cross_entropy, transport=transport, autocast=torch.bfloat16)
    x, y = batch_of(8)
    loss = pipeline.step(x.float(), y)
    right = pipeline.evaluate(x.float(), y, share_right)[1]
    total = 0.0
    for half in torch.arange(8).tensor_split(2):
        with torch.autocast("cpu", torch.bfloat16):
            part = cross_entropy(alone(x[half].float()), y[half]) / 2
        part.backward()
        total += part.item()
    wanted = {name: value.grad for name, value in alone.named_parameters()}
    off = [float((p.grad - wanted[n]).norm()) for n, p in pipeline.named_parameters()]
    types = {str(p.dtype) for p in pipeline.parameters()}
    exact = cross_entropy(alone(x.float()), y).item()
    return [max(off), abs(loss - total), abs(loss - exact) > 1e-6, sorted(types), right]


def too_late(transport: Transport) -> str:
    """The first of each pair takes no step. A group that waits in vain is lost: it is its own."""
    pair = transport.split([[0, 1], [2, 3]])
    pipeline = Pipeline(plain(), 2, loss=cross_entropy, transport=pair, timeout_seconds=1)
    return refusal(lambda: pipeline.step(*batch_of(4))) if pair.rank else ""


def other_work(transport: Transport) -> str:
    """The second of each pair evaluates a batch that the first trains on."""
    pair = transport.split([[0, 1], [2, 3]])
    pipeline = Pipeline(plain(), 2, loss=cross_entropy, transport=pair, timeout_seconds=1)
    work = pipeline.evaluate if pair.rank else pipeline.step
    return refusal(lambda: work(*batch_of(4)))
