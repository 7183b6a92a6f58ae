"""What runs in a DataLoader's workers: repeatable chance, and streams shared out over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from dto.runtime.data import IndexBatch, Size, share
from dto.runtime.seeds import OwnChance, derive, seed_everything


class SeededDataset(Dataset[Any]):
    """The user's dataset in a worker process, where each batch brings its own seed.

    So an augmentation depends on seed, epoch and batch, not on how long a worker has been
    alive, and a resume in the middle of an epoch goes on with the same random crops.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet while a worker unpickles us
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        if isinstance(indices, IndexBatch) and indices.seed is not None:
            seed_everything(indices.seed)
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is not None:
            return list(fetch(indices))
        return [self.dataset[index] for index in indices]


class SharedStream(IterableDataset[Any]):
    """Every rank reads the whole stream in global batches and keeps its part of each.

    So all ranks know, without asking, how big each global batch is and where the stream ends. The
    stream draws its chance from epoch and worker alone: a shuffle is the same one on every rank
    and when a resume reads it again. Yields (Size, this rank's samples).
    """

    def __init__(
        self,
        dataset: IterableDataset[Any],
        global_batch: int,
        world: int,
        rank: int,
        drop_last: bool,
        keeps_step: bool,
        seed: int,
    ) -> None:
        self._seed = seed
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # persistent workers see it
        self.dataset = dataset
        self._global_batch, self._world, self._rank = global_batch, world, rank
        self._drop_last, self._keeps_step = drop_last, keeps_step

    def place(self, epoch: int) -> None:
        """Say which epoch the next iteration is, to the user's stream as well if it listens."""
        self._epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Size, list[Any]]]:
        worker = get_worker_info()
        path = (int(self._epoch.item()), worker.id if worker is not None else 0)
        chance = OwnChance(derive(self._seed, "stream", *path))
        with chance:
            items = iter(self.dataset)
        while True:
            with chance:
                group = list(islice(items, self._global_batch))
            is_whole = len(group) == self._global_batch
            if is_whole or (group and not self._drop_last):
                yield from self._part(group)
            if not is_whole:
                return

    def _part(self, group: list[Any]) -> Iterator[tuple[Size, list[Any]]]:
        mine = group[share(len(group), self._world, self._rank)]
        size = Size(len(mine), len(group))
        if mine:
            yield size, mine
        elif self._keeps_step:  # keep step with a borrowed sample that counts nothing
            yield size, group[:1]


class CollateSized:
    """The user's collate function under the size that travels with the samples."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, item: tuple[Size, list[Any]]) -> tuple[int, int, Any]:
        size, samples = item
        return size.own, size.total, self._collate(samples)
