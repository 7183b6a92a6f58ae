"""CIFAR-10 from a local folder in its own binary format: records of one label and 3,072 bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from dto.errors import DtoError

FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
TEST = ("test_batch.bin",)
RECORD = 1 + 3 * 32 * 32
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def find(folder: Path) -> Path:
    """The folder with all six files: `folder` or the one that the archive unpacks into it."""
    for place in (folder / FOLDER, folder):
        if all((place / name).is_file() for name in (*TRAIN, *TEST)):
            return place
    raise DtoError(
        f"CIFAR-10 is not in {folder}: download"
        " https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (162 MB) and unpack it with"
        f" tar -xzf cifar-10-binary.tar.gz -C {folder}"
    )


def read(path: Path) -> tuple[Tensor, Tensor]:
    """Images [n, 3, 32, 32] as bytes, and labels [n]."""
    raw = np.fromfile(path, dtype=np.uint8)
    if raw.size == 0 or raw.size % RECORD:
        raise DtoError(f"{path} has {raw.size} bytes, not a multiple of {RECORD}: download again")
    records = raw.reshape(-1, RECORD)
    if records[:, 0].max() > 9:
        raise DtoError(f"{path} has a label above 9: it is not CIFAR-10's binary version")
    images = torch.from_numpy(records[:, 1:].copy()).reshape(-1, 3, 32, 32)
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Training images, normalised, each shifted by up to 4 pixels and mirrored at random."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.nn.functional.pad(self.images[index], (4, 4, 4, 4))
        top, left, mirror = torch.randint(0, 9, (3,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        return normalise(image.flip(2) if mirror % 2 else image), self.labels[index]


def normalise(images: Tensor) -> Tensor:
    """Bytes to floats with the training set's mean and deviation per channel."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def load(folder: Path) -> tuple[Dataset[tuple[Tensor, Tensor]], Dataset[tuple[Tensor, ...]]]:
    """Training set (augmented) and test set."""
    place = find(folder)
    parts = [read(place / name) for name in TRAIN]
    train = Augmented(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
    images, labels = read(place / TEST[0])
    return train, TensorDataset(normalise(images), labels)
