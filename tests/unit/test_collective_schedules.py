"""Every algorithm adds up in any world, on paper: its steps are played by one process."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from dto.runtime.collectives import algorithms
from dto.runtime.collectives.schedule import Schedule, Step, elements_sent, split

WORLDS = [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 31]
LENGTHS = [0, 1, 2, 5, 64, 97]
ALL_REDUCES: dict[str, Callable[[int, int, int], Schedule]] = {
    "ring": lambda rank, n, length: algorithms.ring(rank, range(n), (0, length)),
    "tree": lambda rank, n, length: algorithms.tree(rank, range(n), (0, length)),
    "halving_doubling": lambda rank, n, length: algorithms.halving_doubling(
        rank, range(n), (0, length)
    ),
    "pairs": lambda rank, n, length: algorithms.hierarchical(
        rank, [f"n{r // 2}" for r in range(n)], (0, length)
    ),
    "scattered": lambda rank, n, length: algorithms.hierarchical(
        rank, [f"n{r % 3}" for r in range(n)], (0, length)
    ),
}


def play(schedules: Sequence[Schedule], tensors: list[list[int]]) -> list[list[int]]:
    """Carry all schedules out; a step that can never go on is a deadlock."""
    n = len(schedules)
    links: dict[tuple[int, int], deque[list[int]]] = {
        (a, b): deque() for a in range(n) for b in range(n)
    }
    at, has_sent = [0] * n, [False] * n
    while any(at[rank] < len(schedules[rank]) for rank in range(n)):
        moved = False
        for rank in range(n):
            if at[rank] == len(schedules[rank]):
                continue
            step = schedules[rank][at[rank]]
            if step.send and not has_sent[rank]:
                links[rank, step.send.peer].append(tensors[rank][slice(*step.send.span)])
                has_sent[rank] = moved = True
            if step.receive and not links[step.receive.peer, rank]:
                continue
            receive(step, rank, links, tensors[rank])
            at[rank], has_sent[rank], moved = at[rank] + 1, False, True
        assert moved, "deadlock"
    assert not any(links.values()), "a message that nobody took"
    return tensors


def receive(
    step: Step, rank: int, links: dict[tuple[int, int], deque[list[int]]], tensor: list[int]
) -> None:
    if step.receive is None:
        return
    came, span = links[step.receive.peer, rank].popleft(), slice(*step.receive.span)
    assert len(came) == step.receive.end - step.receive.begin
    here = tensor[span]
    tensor[span] = [a + b for a, b in zip(here, came, strict=True)] if step.adds else came


def inputs(n: int, length: int) -> list[list[int]]:
    return [[(rank + 1) * 1000 + place for place in range(length)] for rank in range(n)]


def total(n: int, length: int) -> list[int]:
    return [sum(column) for column in zip(*inputs(n, length), strict=True)]


@pytest.mark.parametrize("n", WORLDS)
@pytest.mark.parametrize("name", ALL_REDUCES)
def test_every_rank_ends_with_the_sum(name: str, n: int) -> None:
    for length in LENGTHS:
        schedules = [ALL_REDUCES[name](rank, n, length) for rank in range(n)]
        assert play(schedules, inputs(n, length)) == [total(n, length)] * n


@pytest.mark.parametrize("n", WORLDS)
@pytest.mark.parametrize("name", ALL_REDUCES)
def test_a_step_never_sends_what_it_overwrites(name: str, n: int) -> None:
    for rank in range(n):
        for step in ALL_REDUCES[name](rank, n, 97):
            if step.send and step.receive:
                assert step.send.end <= step.receive.begin or step.receive.end <= step.send.begin


@pytest.mark.parametrize("n", WORLDS)
def test_a_reduce_scatter_leaves_each_rank_its_own_part(n: int) -> None:
    schedules = [algorithms.ring_reduce_scatter(r, range(n), (0, 97)) for r in range(n)]
    found = play(schedules, inputs(n, 97))
    for rank, span in enumerate(split((0, 97), n)):
        assert found[rank][slice(*span)] == total(n, 97)[slice(*span)]


@pytest.mark.parametrize("n", WORLDS)
def test_a_broadcast_reaches_all_from_any_root(n: int) -> None:
    for root in range(n):
        schedules = [algorithms.tree_broadcast(r, range(n), (0, 3), root) for r in range(n)]
        assert play(schedules, inputs(n, 3)) == [inputs(n, 3)[root]] * n


@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 12])
def test_a_ring_sends_the_least_that_is_possible(n: int) -> None:
    length = n * 1000
    for rank in range(n):
        sent = elements_sent(algorithms.ring(rank, range(n), (0, length)))
        assert sent == {(rank + 1) % n: 2 * (n - 1) * length // n}


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_halving_and_doubling_sends_as_little_in_fewer_rounds(n: int) -> None:
    length = n * 1000
    for rank in range(n):
        steps = algorithms.halving_doubling(rank, range(n), (0, length))
        assert sum(elements_sent(steps).values()) == 2 * (n - 1) * length // n
        assert len(steps) == 2 * (n.bit_length() - 1)


@pytest.mark.parametrize("g", [2, 4])
@pytest.mark.parametrize("m", [2, 3])
def test_hierarchical_sends_one_part_in_g_between_nodes(g: int, m: int) -> None:
    n, length = g * m, g * m * 1000
    nodes = [f"n{rank // g}" for rank in range(n)]
    for rank in range(n):
        sent = elements_sent(algorithms.hierarchical(rank, nodes, (0, length)))
        across = sum(count for peer, count in sent.items() if nodes[peer] != nodes[rank])
        assert across == 2 * (m - 1) * length // m // g


@pytest.mark.parametrize("n", WORLDS)
def test_a_tree_takes_two_logarithms_of_rounds(n: int) -> None:
    deepest = max(len(algorithms.tree(rank, range(n), (0, 1))) for rank in range(n))
    assert deepest == 2 * (n - 1).bit_length()


@functools.cache
def _pieces(length: int, count: int) -> list[int]:
    return [end - begin for begin, end in split((0, length), count)]


def test_spans_are_split_as_torch_splits_tensors() -> None:
    assert _pieces(7, 3) == [3, 2, 2]
    assert _pieces(1, 3) == [1, 0, 0]
    assert _pieces(0, 2) == [0, 0]
