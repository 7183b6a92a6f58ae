"""What runs in a DataLoader's workers: repeatable chance, and streams shared out over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from dto.runtime.data import IndexBatch, Size, share
from dto.runtime.seeds import seed_everything


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

    So all ranks know, without asking, how big each global batch is and where the stream ends.
    Yields (Size, this rank's samples).
    """

    def __init__(
        self,
        dataset: IterableDataset[Any],
        global_batch: int,
        world: int,
        rank: int,
        drop_last: bool,
        keeps_step: bool,
    ) -> None:
        self.dataset = dataset
        self._global_batch, self._world, self._rank = global_batch, world, rank
        self._drop_last, self._keeps_step = drop_last, keeps_step

    def __iter__(self) -> Iterator[tuple[Size, list[Any]]]:
        group: list[Any] = []
        for item in self.dataset:
            group.append(item)
            if len(group) == self._global_batch:
                yield from self._part(group)
                group = []
        if group and not self._drop_last:
            yield from self._part(group)

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
