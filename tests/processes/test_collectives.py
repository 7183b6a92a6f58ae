"""Real ranks: collectives on send and receive equal torch's, and end with words, never a hang."""

from __future__ import annotations

import functools
import json
import tempfile
from typing import Any

import pytest

from tests.helpers import PROGRAMS
from tests.processes.ranks import run_ranks

pytestmark = [pytest.mark.process, pytest.mark.ranks]
WORLDS = [2, 3, 4]


def launch(world: int, *options: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        lost = [0] * (world - 1) + [9]  # the last one is lost on purpose
        program = PROGRAMS / "collectives.py"
        outputs = run_ranks("gloo", world, program, folder, *options, codes=lost)
    return [json.loads(out) for out in outputs[:-1]]


@functools.cache
def results(world: int) -> list[dict[str, Any]]:
    """Every case, run once; by rank, without the one that is lost at the end."""
    return launch(world)


@pytest.mark.parametrize("world", WORLDS)
def test_every_algorithm_equals_torch_at_forty_sizes_and_all_dtypes(world: int) -> None:
    assert [rank["differences"] for rank in results(world)] == [[]] * (world - 1)


@pytest.mark.parametrize("world", WORLDS)
def test_all_ranks_end_with_equal_bits(world: int) -> None:
    assert len({rank["digest"] for rank in results(world)}) == 1


def test_bits_are_equal_from_run_to_run() -> None:
    assert launch(3, "--only-bits")[0]["first"] == results(3)[0]["first"]


@pytest.mark.parametrize("world", WORLDS)
def test_parts_and_copies_are_right_at_odd_sizes(world: int) -> None:
    assert [rank["parts"] for rank in results(world)] == [[]] * (world - 1)


@pytest.mark.parametrize("world", WORLDS)
def test_tensors_with_gaps_or_gradients_and_means_work(world: int) -> None:
    total = world * (world + 1) / 2
    for rank in results(world):
        assert rank["odd"]["gaps"] in ([total, value] for value in range(1, world + 1))
        assert rank["odd"]["means"] == [[(world - 1) / 2] * 5] * 5
        assert rank["odd"]["needs_grad"] == [world] * 3
        assert rank["odd"]["dto"] == [world] * 2


@pytest.mark.parametrize("world", WORLDS)
def test_the_bytes_that_leave_are_those_of_the_theory(world: int) -> None:
    ring = 2 * (world - 1) * 48_000 // world
    for rank, found in enumerate(results(world)):
        assert found["bytes"]["ring"] == [
            ring if peer == (rank + 1) % world else 0 for peer in range(world)
        ]
        if world == 4:  # two nodes of two: half of the bytes of a ring of two nodes
            across = sum(
                found["bytes"]["hierarchical"][peer] for peer in range(4) if peer // 2 != rank // 2
            )
            assert across == 48_000 // 2


@pytest.mark.parametrize("world", WORLDS)
def test_a_mismatch_names_rank_and_difference_on_every_rank(world: int) -> None:
    odd = f"rank {world - 1} calls"
    for rank in results(world):
        found = rank["mismatches"]
        assert odd in found["shape"] and "[3, 5]" in found["shape"] and "[3, 4]" in found["shape"]
        assert "float64 [3], but rank 0" in found["dtype"]
        assert f"{odd} broadcast" in found["call"] and "rank 0 calls all_reduce" in found["call"]
        assert "(tree, sum)" in found["algorithm"] and "(ring, sum)" in found["algorithm"]
        assert found["after"] == [world] * 3


def test_what_no_rank_can_do_is_refused_before_anything_is_sent() -> None:
    star, product, mean, dtype, root = results(2)[0]["refused"]
    assert "'star'" in star and "halving_doubling" in star
    assert "'product'" in product
    assert "int32" in mean
    assert "complex64" in dtype
    assert "no rank 9" in root


@pytest.mark.parametrize("world", WORLDS)
def test_links_are_measured_once_and_then_read_from_the_cache(world: int) -> None:
    nodes = ["node0--node0"] if world == 2 else ["node0--node0", "node0--node1"]
    if world == 4:
        nodes.append("node1--node1")
    for rank in results(world):
        assert rank["chosen"]["sum"] == 1000 * world
        assert 0 < rank["chosen"]["latency"] < 1
        assert rank["chosen"]["files"] == [f"{name}.gloo.json" for name in nodes]
        assert rank["chosen"]["told"] == [0.25, 8.0]
        assert f": 4000 bytes over {world} ranks on" in rank["chosen"]["explained"]


def test_a_peer_that_does_not_come_is_named_after_the_time_limit() -> None:
    words = results(2)[0]["broken"]
    assert "rank 1 did not answer within 2 s in all_reduce (ring, sum) of float32" in words


def test_a_peer_that_died_is_named_by_every_rank() -> None:
    for rank in results(3):
        assert "rank 2 went away in all_reduce" in rank["broken"]


def test_a_peer_that_dies_midway_ends_the_call_on_every_rank() -> None:
    words = [rank["broken"] for rank in results(4)]
    assert all("went away in all_reduce" in word for word in words)
    assert any("rank 3 went away" in word for word in words)


ON_HOROVOD = """
import json, torch, dto
from dto.errors import WorldError
auto, native = torch.ones(5), torch.ones(5)
dto.all_reduce(auto)
dto.all_reduce(native, algorithm="native", reduction="mean")
try:
    dto.all_reduce(native, algorithm="ring")
except WorldError as error:
    print(json.dumps([auto.tolist(), native.tolist(), str(error)]))
"""


@pytest.mark.horovod
def test_horovod_keeps_its_own_all_reduce_and_says_what_it_lacks() -> None:
    for output in run_ranks("horovod", 2, "-c", ON_HOROVOD):
        auto, native, words = json.loads(output.splitlines()[-1])
        assert (auto, native) == ([2.0] * 5, [1.0] * 5)
        assert "needs Gloo" in words and "horovod" in words
