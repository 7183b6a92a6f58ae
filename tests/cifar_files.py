"""Small files in CIFAR-10's binary format, easy enough to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.cifar import FOLDER, RECORD, TEST, TRAIN


def write_tiny_cifar(parent: Path, images_per_file: int) -> Path:
    """All six files; the brightness of an image tells its label."""
    folder = parent / FOLDER
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for name in (*TRAIN, *TEST):
        labels = chance.integers(0, 10, images_per_file, dtype=np.uint8)
        noise = chance.integers(0, 20, (images_per_file, RECORD - 1), dtype=np.uint8)
        records = np.concatenate([labels[:, None], noise + labels[:, None] * 25 % 230], axis=1)
        records.astype(np.uint8).tofile(folder / name)
    return folder
