"""A made-up data set for `multigpu_multi_node.py`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset


class MyTrainDataset(Dataset[tuple[Tensor, Tensor]]):
    """`size` points of a noisy linear function: a task whose loss truly falls."""

    def __init__(self, size: int, features: int = 20) -> None:
        generator = torch.Generator().manual_seed(0)  # the same data on every rank
        self.inputs = torch.rand(size, features, generator=generator)
        weights = torch.randn(features, 1, generator=generator)
        noise = torch.randn(size, 1, generator=generator)
        self.targets = self.inputs @ weights + 0.01 * noise

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]
