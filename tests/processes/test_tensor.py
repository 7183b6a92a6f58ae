"""Layers that real ranks share compute what one process computes."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.processes.pool import pool
from tests.ranks.tensor import BY_WORLD, CONTEXT, LAYERS, WIDTH

pytestmark = [pytest.mark.process, pytest.mark.ranks]
WORLDS = [1, 2, 3, 4]
ONE_TENSOR = 4 * CONTEXT * WIDTH  # batch times sequence times width: what Megatron sends


@functools.cache
def matrix(world: int) -> list[dict[str, Any]]:
    return pool("gloo").run("tensor.matrix", world, names=BY_WORLD[world])


@pytest.mark.parametrize(
    ("world", "case"), [(world, case) for world in WORLDS for case in BY_WORLD[world]]
)
def test_shared_layers_equal_one_process(world: int, case: str) -> None:
    tolerance = 1e-5 if "float32" in case else 1e-10
    for rank in matrix(world):
        assert rank[case]["apart"] <= tolerance
        assert rank[case]["off"] <= tolerance


@pytest.mark.parametrize("world", WORLDS[1:])
def test_what_all_ranks_hold_stays_equal_bit_by_bit(world: int) -> None:
    for case in BY_WORLD[world]:
        assert len({rank[case]["replicas"] for rank in matrix(world)}) == 1, case


def test_a_second_run_gives_the_same_bits() -> None:
    names = ["mlp adamw", "gpt sequence float32"]
    again = pool("gloo").run("tensor.matrix", 3, names=names)
    for first, second in zip(matrix(3), again, strict=True):
        assert [first[name] for name in names] == [second[name] for name in names]


@pytest.mark.horovod
def test_ranks_of_horovod_can_share_layers_and_sequences() -> None:
    names = ["mlp sgd", "gpt sgd", "gpt sequence sgd"]
    for rank in pool("horovod", 2).run("tensor.matrix", 2, names=names):
        assert all(rank[name]["apart"] <= 1e-10 for name in names)
    says = pool("horovod", 2).run("tensor_traits.torch_backend", 2)
    assert all("needs torch.distributed, and this is horovod: use backend dto" in s for s in says)


def test_a_layer_sends_what_megatron_sends() -> None:
    """Four all-reduces a layer: two forward, two backward."""
    found = pool("gloo").run("tensor.traffic", 2, sequence_parallel=False)
    assert found == [{f"sum {ONE_TENSOR}": 4 * LAYERS}] * 2


def test_a_cut_sequence_is_gathered_and_scattered_instead() -> None:
    """Each all-reduce becomes a gather and a scatter; inputs are gathered again in backward."""
    for rank in pool("gloo").run("tensor.traffic", 2, sequence_parallel=True):
        assert rank.pop(f"scatter {ONE_TENSOR}") == 4 * LAYERS
        ends = 2  # one where the sequence is put together, one where its gradient is
        assert rank.pop(f"gather {ONE_TENSOR}") == (4 + 2) * LAYERS + ends
        assert rank == {f"sum {WIDTH}": 6 * LAYERS}  # two norms and two biases of row layers


@pytest.mark.parametrize("zero", [False, True], ids=["ddp", "zero3"])
def test_replicas_of_shared_layers_equal_one_process(zero: bool) -> None:
    found = pool("gloo").run("tensor.grid", 4, zero=zero)
    assert max(distance for distance, *_ in found) <= 1e-10
    assert [replicas for _, *replicas in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize("world", WORLDS)
def test_what_ranks_say_they_hold_is_the_whole_model_once(world: int) -> None:
    assert pool("gloo").run("tensor.rebuilt", world) == [[True, True]] * world


def test_inside_whole_one_rank_can_use_the_model_and_changes_are_kept() -> None:
    first, second = pool("gloo").run("tensor_traits.whole_for_a_while", 2)
    assert first[0].startswith("The ") and second[0] == ""
    for _, is_whole, distance, change in (first, second):
        assert is_whole and distance <= 1e-12 < 1e-3 < change


def test_afterwards_every_rank_has_the_whole_plain_model() -> None:
    for kind, *distances in pool("gloo").run("tensor_traits.unsharded", 2):
        assert kind == "Linear" and max(distances) <= 1e-10


def test_an_overflow_on_one_rank_reaches_all() -> None:
    assert pool("gloo").run("tensor_traits.overflowed", 2) == [[True] * 8] * 2


def test_recomputed_activations_give_the_same_bits() -> None:
    assert pool("gloo").run("tensor_traits.recomputed", 2) == [True, True]


def test_a_compiled_model_sends_the_same() -> None:
    assert pool("gloo").run("tensor_traits.compiled", 2) == [True, True]


def test_autocast_reaches_shared_layers() -> None:
    assert max(pool("gloo").run("tensor_traits.in_bfloat16", 2)) < 0.02


def test_gradients_of_what_works_on_cut_values_are_added_up() -> None:
    assert max(pool("gloo").run("tensor_traits.summed_within_heads", 3)) <= 1e-10


def test_frozen_layers_hand_gradients_on() -> None:
    found = pool("gloo").run("tensor_traits.frozen_layers", 2)
    assert all(distance <= 1e-12 for distance, _ in found)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-12)


def test_what_ranks_cannot_share_is_refused_on_all_of_them() -> None:
    first, second = pool("gloo").run("tensor_traits.refusals", 2)
    assert first == second
    assert first["other plan"].startswith("WorldError: rank 1 has another model or plan")
    assert first["other model"].startswith("WorldError: rank 1 has another model or plan")
    assert "0 has 5 outputs, which 2 ranks cannot share evenly" in first["outputs"]
    assert "0 has 7 inputs, which 2 ranks cannot share evenly" in first["inputs"]
    assert "layers.0.qkv has 36 outputs in 3 blocks of 4 that stay together" in first["heads"]
    assert "3, a row layer, got 12 inputs and holds 6 of 12" in first["row alone"]
    assert "layers got [2, 11, 24]: its first argument must be" in first["length"]
    assert first["batch"].startswith(
        "WorldError: rank 1 has another batch (ranks that share layers need one): [2, 7]"
        " torch.float32 with the sum 14 instead of"
    )
    assert "layers.0.qkv takes a piece of a sequence" in first["not called"]


def test_without_a_transport_it_joins_the_world_and_its_generator() -> None:
    found = pool("gloo").run("tensor_traits.joins_by_itself", 4)
    assert found == [[4, [3, 5], found[0][2]]] * 4
