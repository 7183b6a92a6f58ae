"""The models that benchmarks train, small enough for CPUs: the examples' GPT and ResNet-18."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

sys.path.append(str(Path(__file__).parents[1] / "examples"))

CONTEXT = 64


@dataclass(frozen=True)
class Workload:
    """A model with its data; `batch` samples a rank, `steps` to time at once."""

    model: Callable[[], nn.Module]
    samples: Callable[[int], TensorDataset]
    blocks: Callable[[Any], list[nn.Module]]
    """What users give to `fully_shard` one by one."""
    batch: int
    steps: int

    def build(self) -> nn.Module:
        """The same weights on every rank."""
        torch.manual_seed(0)
        return self.model()


def gpt(width: int = 64, heads: int = 4, layers: int = 2, context: int = CONTEXT) -> nn.Module:
    from tiny_gpt import TinyGPT

    return TinyGPT(context, width, heads, layers)


def texts(count: int, context: int = CONTEXT) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(256, (count, context + 1), generator=generator)
    return TensorDataset(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def _resnet() -> nn.Module:
    from resnet import ResNet18

    return ResNet18(width=16)


def _images(count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(count, 3, 32, 32, generator=generator)
    return TensorDataset(pictures, torch.randint(10, (count,), generator=generator))


def _mlp() -> nn.Module:
    sizes = [256, 1024, 1024, 1024, 512, 10]
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _vectors(count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(count, 256, generator=generator)
    return TensorDataset(rows, torch.randint(10, (count,), generator=generator))


WORKLOADS = {
    "tiny_gpt": Workload(gpt, texts, lambda model: list(model.layers), batch=16, steps=8),
    "resnet18": Workload(_resnet, _images, lambda model: list(model.blocks), batch=8, steps=4),
    "mlp": Workload(_mlp, _vectors, lambda model: list(model.children()), batch=32, steps=8),
}
