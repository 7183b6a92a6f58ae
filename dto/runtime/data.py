"""Global batches: one order for all ranks, cut evenly, with no sample added, lost or repeated."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from dto.runtime.seeds import OwnChance, derive

Order = Callable[[int], Sequence[int]]
"""Epoch -> every index of that epoch, the same on every rank."""


@dataclass(frozen=True)
class Size:
    """How many samples of a global batch are this rank's, and how many it has."""

    own: int
    total: int


class IndexBatch(list[int]):
    """Indices for a worker, with the seed for whatever random it does to these samples."""

    seed: int | None = None


def share(total: int, world: int, rank: int) -> slice:
    """This rank's part of `total` things: contiguous, and sizes differ by one at most."""
    base, rest = divmod(total, world)
    start = rank * base + min(rank, rest)
    return slice(start, start + base + (rank < rest))


class GlobalBatchSampler(Sampler[list[int]]):
    """Yields this rank's part of each global batch, from any position in the epoch.

    A batch with fewer samples than ranks leaves some with nothing. With `keeps_step` they borrow
    its first sample, so that their loop goes round as often as everybody's, and `sizes` says that
    it counts 0; without, they skip the batch.
    """

    def __init__(
        self,
        batches: Callable[[int], Iterator[Sequence[int]]],
        world: int,
        rank: int,
        keeps_step: bool = True,
        worker_seed: Callable[[int, int], int] | None = None,
    ) -> None:
        self._batches = batches
        self._world, self._rank = world, rank
        self._keeps_step = keeps_step
        self._worker_seed = worker_seed
        self.epoch = 0
        self.start = 0
        self.skipped = 0
        self.sizes: deque[Size] = deque()

    def place(self, epoch: int, start: int) -> None:
        """Let the next iteration begin behind the first `start` samples of `epoch`."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[int]]:
        self.sizes.clear()
        position = self.skipped = 0
        for whole in self._batches(self.epoch):
            position += len(whole)
            if position <= self.start:
                self.skipped += 1
                continue
            mine = IndexBatch(whole[share(len(whole), self._world, self._rank)])
            size = Size(len(mine), len(whole))
            if not mine:
                if not self._keeps_step:
                    continue
                mine = IndexBatch(whole[:1])
            if self._worker_seed is not None:
                mine.seed = self._worker_seed(self.epoch, position)
            self.sizes.append(size)
            yield mine


def cut(order: Order, global_batch: int, drop_last: bool) -> Callable[[int], Iterator[list[int]]]:
    """Global batches of `global_batch` samples; the last may be smaller."""

    def batches(epoch: int) -> Iterator[list[int]]:
        indices = order(epoch)
        for start in range(0, len(indices), global_batch):
            batch = indices[start : start + global_batch]
            if len(batch) == global_batch or not drop_last:
                yield list(batch)

    return batches


def join(
    batches: Callable[[int], Sequence[Sequence[int]]], per_global_batch: int
) -> Callable[[int], Iterator[list[int]]]:
    """Global batches of so many of the batches that the user's own batch sampler makes."""

    def joined(epoch: int) -> Iterator[list[int]]:
        drawn = batches(epoch)
        for start in range(0, len(drawn), per_global_batch):
            yield [index for b in drawn[start : start + per_global_batch] for index in b]

    return joined


def order_of(loader: DataLoader[Any], seed: int, agree: Callable[[Any], Any]) -> Order:
    """The order in which `loader` wants its dataset, as a function of the epoch alone."""
    sampler = loader.sampler
    length = len(loader.dataset)  # type: ignore[arg-type]
    if type(sampler) is SequentialSampler:
        return lambda epoch: range(length)
    if isinstance(sampler, DistributedSampler):  # it shards and pads; we take its order only
        if not sampler.shuffle:
            return lambda epoch: range(length)
        return lambda epoch: permutation(length, seed, epoch)
    if type(sampler) is RandomSampler and not sampler.replacement:
        if sampler.num_samples == length:
            return lambda epoch: permutation(length, seed, epoch)
    return drawn_from(sampler, seed, agree)


def permutation(length: int, seed: int, epoch: int) -> list[int]:
    """A shuffle that every rank of every world computes alike."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    shuffled: list[int] = torch.randperm(length, generator=generator).tolist()
    return shuffled


def drawn_from(sampler: Any, seed: int, agree: Callable[[Any], Any]) -> Callable[[int], list[Any]]:
    """Honour a sampler of the user's: draw from it with generators seeded by the epoch."""

    def draw(epoch: int) -> list[Any]:
        drawn_seed = derive(seed, "order", epoch)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        for owner in (sampler, getattr(sampler, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(drawn_seed)
        with OwnChance(drawn_seed):
            drawn = list(sampler)
        # a sampler with a source of chance that we cannot seed: everybody takes rank 0's draw
        return list(agree(drawn))

    return draw
