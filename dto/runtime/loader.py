"""The prepared DataLoader: an ordinary loop over it trains on shards and stops where it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset

from dto.errors import UsageError
from dto.runtime.data import GlobalBatchSampler, Size, cut, drawn_from, join, order_of
from dto.runtime.seeds import derive
from dto.runtime.streams import CollateSized, SeededDataset, SharedStream


class Listener(Protocol):
    """Who wants to know how far a training loader is (the session)."""

    def begin_epoch(self, epoch: int) -> int | None:
        """Samples of this epoch that are behind us already; None if all of it is."""

    def arrive(self) -> None:
        """The next batch is the first that is really trained on in this process."""

    def begin_batch(self, size: Size) -> None:
        """A batch is about to be handed to the user's loop."""

    def end_batch(self, size: Size) -> None:
        """The user's loop has come back for the next one."""


class PreparedLoader:
    """Gives this rank its part of every global batch of the user's DataLoader.

    All of the DataLoader's options are kept, and the global generators are left alone. Batches
    that a resumed run has trained on already are skipped; `len` counts global batches, while
    iterating those of this iteration (so `i + 1 == len(loader)` is the last one there, too). With
    `keeps_step` every rank gets equally many batches, some of them borrowed (see data.py).
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        world: int,
        rank: int,
        seed: int,
        global_batch: int,
        listener: Listener | None,
        keeps_step: bool,
        agree: Callable[[Any], Any],
    ) -> None:
        self.original = loader
        self.global_batch = global_batch
        self._world, self._rank, self._seed = world, rank, seed
        self._listener = listener
        self._keeps_step = keeps_step
        self._agree = agree if keeps_step else lambda value: value
        self._next_epoch = 0
        self._generator = torch.Generator()
        self._is_stream = isinstance(loader.dataset, IterableDataset)
        self._behind = self._read = 0
        self._batches: GlobalBatchSampler | None = None
        self._shared: SharedStream | None = None
        self._inner = self._stream() if self._is_stream else self._indexed()

    @property
    def sampler(self) -> PreparedLoader:
        """Has `set_epoch`, as scripts written for DistributedSampler expect."""
        return self

    @property
    def dataset(self) -> Any:
        return self.original.dataset

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is; without it, they are counted."""
        self._next_epoch = epoch

    def __getattr__(self, name: str) -> Any:
        if name == "original":
            raise AttributeError(name)
        return getattr(self.original, name)

    def __len__(self) -> int:
        total = self._total_samples()
        if self._has_own_batches:
            total = len(self.original.batch_sampler)  # type: ignore[arg-type]
        elif self.original.drop_last:
            return total // self.global_batch - self._behind
        return -(-total // self.global_batch) - self._behind

    def smallest_batch(self) -> int | None:
        """Samples of an epoch's smallest global batch; None where that is not known before."""
        if self._has_own_batches:
            return None
        try:
            rest = self._total_samples() % self.global_batch
        except TypeError:  # a stream without a length
            return None
        return rest if rest and not self.original.drop_last else self.global_batch

    def __iter__(self) -> Iterator[Any]:
        epoch = self._next_epoch
        self._next_epoch += 1
        start = self._listener.begin_epoch(epoch) if self._listener else 0
        if start is None:
            return
        # an own generator for the workers' base seed: the script's own stream stays untouched
        self._generator.manual_seed(derive(self._seed, "loader", epoch, self._rank))
        batches = self.sized(epoch, start)
        if self._listener:
            self._listener.arrive()
        try:
            for size, batch in batches:
                self._behind = self._skipped
                if self._listener:
                    self._listener.begin_batch(size)
                yield batch
                if self._listener:
                    self._listener.end_batch(size)
        finally:
            self._behind = 0

    def sized(self, epoch: int, start: int) -> Iterator[tuple[Size, Any]]:
        """Batches with their sizes, from behind the first `start` samples of the epoch on."""
        if self._batches is not None:
            self._batches.place(epoch, start)
            return self._with_sizes(self._batches, iter(self._inner))
        assert self._shared is not None
        self._shared.place(epoch)
        stream = ((Size(own, total), batch) for own, total, batch in self._inner)
        behind = self._read = 0
        while behind < start:  # a stream can only be skipped by reading it
            size, _ = next(stream, (Size(0, start), None))
            behind += size.total
            self._read += 1
        return stream

    @property
    def _skipped(self) -> int:
        return self._batches.skipped if self._batches is not None else self._read

    @staticmethod
    def _with_sizes(
        batches: GlobalBatchSampler, inner: Iterator[Any]
    ) -> Iterator[tuple[Size, Any]]:
        for batch in inner:
            yield batches.sizes.popleft(), batch

    @property
    def _has_own_batches(self) -> bool:
        return has_own_batches(self.original)

    def _total_samples(self) -> int:
        if self._is_stream:
            return len(self.original.dataset)  # type: ignore[arg-type]
        return 0 if self._has_own_batches else _length(self.original)

    def _indexed(self) -> DataLoader[Any]:
        loader = self.original
        if self._has_own_batches:
            drawn = drawn_from(loader.batch_sampler, self._seed, self._agree)
            batches = join(drawn, self.global_batch)
        else:
            order = order_of(loader, self._seed, self._agree)
            batches = cut(order, self.global_batch, loader.drop_last)
        has_workers = loader.num_workers > 0
        self._batches = GlobalBatchSampler(
            batches,
            self._world,
            self._rank,
            keeps_step=self._keeps_step,
            worker_seed=self._worker_seed if has_workers else None,
        )
        dataset = SeededDataset(loader.dataset) if has_workers else loader.dataset
        return DataLoader(
            dataset,
            batch_sampler=self._batches,
            collate_fn=loader.collate_fn,
            **self._options(),
        )

    def _worker_seed(self, epoch: int, position: int) -> int:
        return derive(self._seed, "worker", epoch, position, self._rank)

    def _stream(self) -> DataLoader[Any]:
        loader = self.original
        self._shared = SharedStream(
            loader.dataset,  # type: ignore[arg-type]
            self.global_batch,
            self._world,
            self._rank,
            loader.drop_last,
            keeps_step=self._keeps_step,
            seed=self._seed,
        )
        collate = CollateSized(loader.collate_fn)
        options: dict[str, Any] = {"collate_fn": collate, **self._options()}
        return DataLoader(self._shared, batch_size=None, **options)

    def _options(self) -> dict[str, Any]:
        loader = self.original
        options: dict[str, Any] = {
            "num_workers": loader.num_workers,
            "pin_memory": loader.pin_memory,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            "multiprocessing_context": loader.multiprocessing_context,
            "generator": self._generator,
        }
        if loader.num_workers > 0:
            options["prefetch_factor"] = loader.prefetch_factor
            options["persistent_workers"] = loader.persistent_workers
        return options


def has_own_batches(loader: DataLoader[Any]) -> bool:
    """Whether the user wrote a batch sampler, rather than giving a batch size."""
    return loader.batch_size is None and loader.batch_sampler is not None


def units_per_batch(loader: DataLoader[Any]) -> int:
    """What one worker takes at a time: samples, or one batch of the user's batch sampler.

    Raises:
        UsageError: the loader has no notion of a batch.
    """
    if has_own_batches(loader):
        return 1
    if loader.batch_size is None:
        raise UsageError(
            "a DataLoader with batch_size=None cannot be shared out over ranks:"
            " give it a batch_size, or a batch_sampler"
        )
    return int(loader.batch_size)


def _length(loader: DataLoader[Any]) -> int:
    """Samples of one epoch: what the sampler gives, not what a sharding sampler leaves."""
    from torch.utils.data.distributed import DistributedSampler

    if isinstance(loader.sampler, DistributedSampler):
        return len(loader.dataset)  # type: ignore[arg-type]
    return len(loader.sampler)  # type: ignore[arg-type]
