"""One of three ranks of test_pipeline: runs every case, prints {case: result} as JSON, then dies.

The last case ends in errors on purpose, so each rank prints for itself.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from dto.errors import DtoError
from dto.runtime.pipeline import Pipeline
from dto.runtime.transport import open_transport
from dto.runtime.world import read_world

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
RANK = dist.get_rank()
WORLD = open_transport("gloo", read_world(os.environ), torch.device("cpu"), os.environ)
TRANSPORTS = {2: WORLD.split([[0, 1], [2]]), 3: WORLD}
SCHEDULES = ("gpipe", "1f1b", "interleaved")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
}
Batch = tuple[torch.Tensor, torch.Tensor]


class Tangled(nn.Module):
    """Hands two tensors on, one of them without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(11, 11)

    def forward(self, value: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, mask = value if isinstance(value, tuple) else (value, value.detach() > 0)
        return torch.tanh(self.inner(x)) * mask, mask


class Join(nn.Module):
    def forward(self, value: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return value[0] + value[1]


def model_of(dtype: torch.dtype, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(7, 11), Tangled(), Tangled(), Join(), nn.Linear(11, 9), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(9, 3)).to(dtype)


def plain_model() -> nn.Sequential:
    torch.manual_seed(0)
    widths = [7, 11, 9, 5, 8, 6]
    layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*layers, nn.Linear(6, 3)).double()


class Tied(nn.Module):
    """The embedding is the output layer as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(13, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.embed.weight

    def pipeline_stages(self) -> list[nn.Module]:
        return [self.embed, *self.body, self.head]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.body(self.embed(x)))
        return y


def batches(dtype: torch.dtype, sizes: Sequence[int] = (12, 13, 6, 17, 12)) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    xs = [torch.randn(n, 7, generator=generator, dtype=torch.float64).to(dtype) for n in sizes]
    return [(x, torch.arange(len(x)) % 3) for x in xs]


def train(pipeline: Pipeline, rows: Sequence[Batch], optimizer: str) -> list[float]:
    stepper = OPTIMIZERS[optimizer](pipeline.parameters())
    losses = []
    for x, y in rows:
        stepper.zero_grad()
        losses.append(pipeline.step(x, y))
        stepper.step()
    return losses


def train_alone(model: nn.Module, rows: Sequence[Batch], optimizer: str) -> list[float]:
    stepper = OPTIMIZERS[optimizer](model.parameters())
    losses = []
    for x, y in rows:
        stepper.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        stepper.step()
        losses.append(loss.item())
    return losses


def distance(pipeline: Pipeline, alone: nn.Module) -> float:
    theirs = {name: value.detach() for name, value in alone.named_parameters()}
    ours = {name: value.detach() for name, value in pipeline.named_parameters()}
    return max([float((p - theirs[n]).norm() / theirs[n].norm()) for n, p in ours.items()] or [0.0])


def pipeline_of(model: nn.Module, stages: int, schedule: str = "1f1b", **more: Any) -> Pipeline:
    loss = nn.functional.cross_entropy
    return Pipeline(model, 6, schedule, loss=loss, transport=TRANSPORTS[stages], **more)


def equals_one_process(stages: int, schedule: str, optimizer: str, dtype: torch.dtype) -> Any:
    """The distance of parameters and losses; a digest of the bits."""
    alone, rows = model_of(dtype), batches(dtype)
    pipeline = pipeline_of(model_of(dtype, seed=RANK), stages, schedule)
    losses = train(pipeline, rows, optimizer)
    theirs = train_alone(alone, rows, optimizer)
    off = max(abs(a - b) for a, b in zip(losses, theirs, strict=True))
    bits = {
        name: hashlib.sha256(p.detach().numpy().tobytes()).hexdigest()
        for name, p in pipeline.named_parameters()
    }
    return [distance(pipeline, alone), off, bits, pipeline.peak_activations]


def matrix(stages: int) -> dict[str, Any]:
    cases = [("sgd", torch.float64), ("adamw", torch.float64), ("adamw", torch.float32)]
    return {
        f"{schedule} {optimizer} {dtype}": equals_one_process(stages, schedule, optimizer, dtype)
        for schedule in SCHEDULES
        for optimizer, dtype in cases
    }


def tied(stages: int, schedule: str) -> list[Any]:
    """Each step is of two batches, as accumulation does it."""
    model, alone = Tied().double(), Tied().double()
    pipeline = pipeline_of(model, stages, schedule, costs=[1.0] * 6)
    steppers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (pipeline, alone)]
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        for stepper in steppers:
            stepper.zero_grad()
        for _ in range(2):
            x, y = torch.randint(13, (2, 12), generator=generator)
            pipeline.step(x, y)
            nn.functional.cross_entropy(alone(x), y).backward()
        for stepper in steppers:
            stepper.step()
    shared = dict(pipeline.named_parameters()).get("embed.weight")
    bits = "" if shared is None else hashlib.sha256(shared.detach().numpy().tobytes()).hexdigest()
    return [distance(pipeline, alone), bits]


def like_torch(stages: int, schedule: str) -> float:
    rows = batches(torch.float64, [12, 12, 12])
    ours, theirs = (
        pipeline_of(plain_model(), stages, schedule, backend=b) for b in ("dto", "torch")
    )
    losses = [train(pipeline, rows, "adamw") for pipeline in (ours, theirs)]
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    apart = [float((a - b).detach().norm() / b.detach().norm()) for a, b in pairs]
    return max(0.0, *apart, *(abs(a - b) for a, b in zip(*losses, strict=True)))


def in_place() -> list[Any]:
    """Stages that begin with what changes its input."""
    layers = [nn.Linear(7, 9), nn.ReLU(inplace=True), nn.Linear(9, 5), nn.ReLU(inplace=True)]
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(5, 3)).double()
    alone = copy.deepcopy(model)
    pipeline = pipeline_of(model, 3, costs=[9, 1, 8, 1, 1])
    rows = batches(torch.float64)
    train(pipeline, rows, "sgd")
    train_alone(alone, rows, "sgd")
    return [distance(pipeline, alone), [part.start for part in pipeline.cut]]


def frozen_first_layer() -> list[float]:
    """Nothing before it has a gradient, so none is sent back."""
    model, alone = plain_model(), plain_model()
    for m in (model, alone):
        m[0].requires_grad_(False)
    pipeline = pipeline_of(model, 3, costs=[9, 2, 2, 2, 2, 2])
    pipeline.step(*batches(torch.float64)[0])
    x, y = batches(torch.float64)[0]
    nn.functional.cross_entropy(alone(x), y).backward()
    theirs = dict(alone.named_parameters())
    return [
        0.0 if p.grad is None else float((p.grad - theirs[n].grad).norm())
        for n, p in pipeline.named_parameters()
    ]


def cut_by_measurement() -> list[list[int]]:
    pipeline = pipeline_of(plain_model(), 3, sample=torch.ones(2, 7, dtype=torch.float64))
    return [list(part) for part in pipeline.cut]


def refusal(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except DtoError as error:
        return str(error)
    return ""


def small_batch() -> str:
    pipeline = pipeline_of(plain_model(), 3)
    return refusal(lambda: pipeline.step(*batches(torch.float64, [5])[0]))


def other_model() -> str:
    widths = 2 + RANK // 2
    model = nn.Sequential(nn.Linear(2, widths), nn.Linear(widths, 2), nn.Tanh())
    return refusal(lambda: pipeline_of(model, 3))


def other_batch() -> str:
    """Rank 2 has it and leaves; rank 1 loses rank 2, then rank 0 loses rank 1."""
    pipeline = pipeline_of(plain_model(), 3)
    size = 18 if RANK == 2 else 12
    return refusal(lambda: pipeline.step(*batches(torch.float64, [size])[0]))


CASES: dict[str, Callable[[], Any]] = {
    "2 stages": lambda: matrix(2) if RANK < 2 else {},
    "3 stages": lambda: matrix(3),
    "tied": lambda: [tied(3, schedule) for schedule in ("gpipe", "1f1b", "interleaved")],
    "torch": lambda: [like_torch(3, schedule) for schedule in SCHEDULES],
    "in place": in_place,
    "frozen": frozen_first_layer,
    "measured": cut_by_measurement,
    "few layers": lambda: refusal(lambda: pipeline_of(nn.Sequential(nn.Tanh()), 3)),
    "small batch": small_batch,
    "other model": other_model,
    "other batch": other_batch,
}

if __name__ == "__main__":
    print(json.dumps({name: case() for name, case in CASES.items()}))
    sys.stdout.flush()
    os._exit(0)  # as one that was killed: the other ranks must notice
