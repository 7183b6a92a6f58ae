"""Every sample is trained on once per epoch, on any number of ranks, from any position."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    WeightedRandomSampler,
)

from dto.runtime.data import GlobalBatchSampler, Size, cut, permutation, share
from dto.runtime.loader import PreparedLoader

worlds = st.integers(1, 9)


def prepared(
    loader: DataLoader[Any], world: int = 1, rank: int = 0, batch: int = 8, **more: Any
) -> PreparedLoader:
    settings: dict[str, Any] = {"seed": 5, "listener": None, "keeps_step": True}
    return PreparedLoader(
        loader, world=world, rank=rank, global_batch=batch, agree=lambda value: value,
        **{**settings, **more},
    )  # fmt: skip


def rows(
    world: int, rank: int, length: int, batch: int, start: int
) -> list[tuple[Size, list[int]]]:
    order = cut(lambda epoch: permutation(length, 7, epoch), batch, drop_last=False)
    sampler = GlobalBatchSampler(order, world, rank)
    sampler.place(3, start)
    drawn = [list(indices) for indices in sampler]
    return list(zip(sampler.sizes, drawn, strict=True))


@given(total=st.integers(0, 100), world=worlds)
def test_shares_are_disjoint_complete_and_even(total: int, world: int) -> None:
    parts = [list(range(total))[share(total, world, rank)] for rank in range(world)]
    assert [n for part in parts for n in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(length=st.integers(1, 60), batch=st.integers(1, 20), world=worlds, done=st.integers(0, 6))
def test_ranks_together_draw_the_rest_of_the_epoch_once(
    length: int, batch: int, world: int, done: int
) -> None:
    start = min(done * batch, length)
    per_rank = [rows(world, rank, length, batch, start) for rank in range(world)]
    assert len({len(rank) for rank in per_rank}) == 1  # nobody waits for a batch that never comes
    drawn = [
        indices[: size.own]
        for together in zip(*per_rank, strict=True)
        for size, indices in together
    ]
    assert [n for part in drawn for n in part] == permutation(length, 7, 3)[start:]
    assert all(indices for rank in per_rank for _, indices in rank)


def test_the_order_depends_on_seed_and_epoch_and_not_on_the_world() -> None:
    assert permutation(50, 1, 0) == permutation(50, 1, 0)
    assert permutation(50, 1, 0) != permutation(50, 1, 1)
    assert permutation(50, 1, 1) != permutation(50, 2, 0)


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 21

    def __getitem__(self, index: int) -> int:
        return index


class Noisy(Numbers):
    def __getitem__(self, index: int) -> Any:
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()])


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(21))

    def __len__(self) -> int:
        return 21


def test_a_loader_keeps_its_options_and_leaves_the_generators_alone() -> None:
    loader = prepared(DataLoader(Numbers(), batch_size=4, shuffle=True, collate_fn=sorted))
    before = torch.get_rng_state()
    batches = list(loader)
    assert torch.equal(before, torch.get_rng_state())
    assert [len(batch) for batch in batches] == [8, 8, 5]
    assert len(loader) == 3
    assert batches == [sorted(batch) for batch in batches]
    assert batches != list(loader), "the next epoch has another order"
    loader.sampler.set_epoch(0)
    assert batches == list(loader)


def test_drop_last_drops_the_uneven_global_batch() -> None:
    loader = prepared(DataLoader(Numbers(), batch_size=4, drop_last=True))
    assert [len(batch) for batch in loader] == [8, 8]
    assert len(loader) == 2


def test_without_keeping_step_an_empty_part_is_skipped() -> None:
    batches = [
        [b.tolist() for b in prepared(DataLoader(Numbers()), 8, rank, 20, keeps_step=False)]
        for rank in range(8)
    ]
    assert sorted(n for rank in batches for batch in rank for n in batch) == list(range(21))
    assert {len(rank) for rank in batches} == {1, 2}


def test_a_sampler_of_the_users_is_honoured_and_split() -> None:
    weights = torch.arange(21, dtype=torch.double)
    loaders = [
        prepared(DataLoader(Numbers(), 4, sampler=WeightedRandomSampler(weights, 30)), 2, rank)
        for rank in range(2)
    ]
    drawn = [[batch.tolist() for batch in loader] for loader in loaders]
    whole = prepared(DataLoader(Numbers(), 4, sampler=WeightedRandomSampler(weights, 30)))
    joined = [a + b for a, b in zip(*drawn, strict=True)]
    assert joined == [batch.tolist() for batch in whole]
    assert 0 not in [n for batch in joined for n in batch]
    assert len(whole) == 4


def test_a_sampler_that_shards_already_is_not_sharded_twice() -> None:
    dataset = Numbers()
    drawn = []
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=True)
        loader = prepared(DataLoader(dataset, batch_size=4, sampler=sampler), 2, rank)
        drawn += [n for batch in loader for n in batch.tolist()]
        assert len(loader) == 3
    assert sorted(drawn) == list(range(21))


def test_batches_of_a_batch_sampler_stay_together() -> None:
    lists = [[0, 1], [2, 3, 4], [5, 6], [7]]
    loader = DataLoader(Numbers(), batch_sampler=lists)
    whole = prepared(loader, batch=2)
    assert [batch.tolist() for batch in whole] == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert len(whole) == 2


def test_a_stream_is_shared_out_and_skipped() -> None:
    for workers in (0, 1):
        drawn = []
        for rank in range(2):
            loader = prepared(DataLoader(Stream(), batch_size=4, num_workers=workers), 2, rank)
            drawn += [n for batch in loader for n in batch.tolist()]
            assert len(loader) == 3
            rest = [batch.tolist() for _, batch in loader.sized(0, 16)]
            assert rest == ([[16, 17, 18]] if rank == 0 else [[19, 20]])
        assert sorted(drawn) == list(range(21))


def test_chance_in_workers_depends_on_the_batch_and_not_on_the_past() -> None:
    """A resume in the middle of an epoch must go on with the same augmentations."""
    loader = prepared(DataLoader(Noisy(), batch_size=4, num_workers=2, shuffle=True))
    whole = [batch for _, batch in loader.sized(1, 0)]
    rest = [batch for _, batch in loader.sized(1, 8)]
    assert len(rest) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))
    assert not torch.equal(whole[0][:, 1:], whole[1][:, 1:])
