"""The choice of an algorithm follows the formulas, and says why."""

from __future__ import annotations

import pytest

from dto.runtime.probe import links_of
from dto.runtime.topology import Link, Topology, choose, ring_seconds, tree_seconds

FAST, SLOW = Link(10e-6, 10e9), Link(100e-6, 1e9)


def flat(n: int, link: Link = SLOW) -> Topology:
    return Topology(("here",) * n, inside=link)


def nodes_of(m: int, g: int) -> Topology:
    return Topology(tuple(f"n{r // g}" for r in range(m * g)), inside=FAST, across=SLOW)


def test_a_large_tensor_in_a_world_that_is_no_power_of_two_goes_round_the_ring() -> None:
    assert choose(64 << 20, flat(6))[0] == "ring"


def test_a_small_tensor_in_such_a_world_takes_few_rounds() -> None:
    assert choose(64, flat(6))[0] == "halving_doubling"


def test_many_ranks_that_are_a_power_of_two_halve_and_double() -> None:
    assert choose(64 << 20, flat(64))[0] == "halving_doubling"


def test_slow_links_between_nodes_make_it_hierarchical() -> None:
    assert choose(64 << 20, nodes_of(3, 8))[0] == "hierarchical"


def test_nodes_of_unlike_size_are_not_offered_the_hierarchical_one() -> None:
    topology = Topology(("a", "a", "b"), FAST, SLOW)
    assert "hierarchical" not in choose(1 << 20, topology)[1]


@pytest.mark.parametrize("backend", ["nccl", "horovod"])
def test_other_transports_use_their_own(backend: str) -> None:
    assert choose(1 << 20, Topology(("a", "b"), backend=backend))[0] == "native"


def test_one_rank_has_nothing_to_send() -> None:
    assert choose(1 << 20, flat(1))[0] == "native"


def test_the_reason_names_bytes_ranks_nodes_and_every_cost() -> None:
    reason = choose(1000, nodes_of(2, 2))[1]
    for word in ("1000 bytes", "4 ranks on 2 nodes", "ring", "tree", "halving_doubling", "ms"):
        assert word in reason


def test_the_costs_are_the_published_formulas() -> None:
    assert ring_seconds(1_000_000, flat(4)) == pytest.approx(6 * 100e-6 + 1.5e6 / 1e9)
    assert tree_seconds(1_000_000, flat(5)) == pytest.approx(6 * (100e-6 + 1e6 / 1e9))


def test_the_probed_links_are_one_in_each_node_and_one_to_the_next() -> None:
    assert links_of(["a", "a", "b", "b", "c"]) == [(0, 1), (2, 3), (0, 2), (2, 4)]
    assert links_of(["a"]) == []
