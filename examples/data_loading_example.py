"""Kinds of data that ordinary DataLoaders bring, and which samples each worker gets of them.

dto run -n 2 examples/data_loading_example.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from simple_net import load_data
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from dto import DistributedTrainer

SAMPLES = 101  # uneven on purpose: nothing is padded and nothing is dropped


class FileDataset(Dataset[tuple[int, Tensor]]):
    """Images in one file that is read as it is needed, not loaded whole."""

    def __init__(self, path: Path) -> None:
        self.images = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, torch.from_numpy(self.images[index].copy())


class Stream(IterableDataset[tuple[int, Tensor]]):
    """Samples that come one after another and have no length."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        yield from enumerate(self.images)


def loaders(folder: Path) -> dict[str, DataLoader]:
    """Each yields (number of the sample, image)."""
    images = load_data()[0].tensors[0][:SAMPLES]
    numbers = torch.arange(SAMPLES)
    path = folder / "images.npy"
    np.save(path, images.numpy())
    weights = torch.where(numbers % 2 == 0, 3.0, 1.0).tolist()
    memory = TensorDataset(numbers, images)
    return {
        "in memory": DataLoader(memory, batch_size=16, shuffle=True),
        "from a file": DataLoader(FileDataset(path), batch_size=16, num_workers=1),
        "as a stream": DataLoader(Stream(images), batch_size=16),
        "weighted": DataLoader(
            memory, batch_size=16, sampler=WeightedRandomSampler(weights, SAMPLES)
        ),
    }


def main() -> None:
    torch.manual_seed(0)
    trainer = DistributedTrainer(auto_scale_lr=False, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        for kind, loader in loaders(Path(folder)).items():
            mine = torch.zeros(SAMPLES)
            for numbers, _ in trainer.prepare_dataloader(loader):
                mine.index_add_(0, numbers, torch.ones(len(numbers)))
            seen = trainer.allreduce(mine.clone(), average=False)
            print(f"rank {trainer.rank}: {kind}: {int(mine.sum())} samples here", flush=True)
            if trainer.is_master():
                print(f"{kind}: {int(seen.sum())} of {SAMPLES} on all {trainer.size} workers,"
                      f" {int((seen > 0).sum())} different ones", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
