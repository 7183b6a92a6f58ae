"""Every stage of ZeRO on real ranks computes what one process computes, and keeps what it says."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.helpers import PROGRAMS
from tests.processes.pool import pool
from tests.processes.ranks import run_ranks

pytestmark = [pytest.mark.process, pytest.mark.ranks]
STAGES = (1, 2, 3)


def check(errors: dict[str, float], count: int) -> None:
    assert len(errors) == count
    for name, error in errors.items():
        assert error <= (1e-10 if " 64 " in name else 1e-5), name


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_stage_equals_one_process_after_uneven_batches(world: int) -> None:
    for errors in pool("gloo").run("zero.matrix", world):
        check(errors, 9)


def test_torchs_fully_shard_equals_one_process_too() -> None:
    for errors in pool("gloo").run("zero.matrix", 3, backend="torch", stages=[2, 3]):
        check(errors, 6)


@pytest.mark.horovod
def test_every_stage_runs_over_horovod() -> None:
    for errors in pool("horovod", 2).run("zero.matrix", 2):
        check(errors, 9)


@functools.cache
def traits() -> list[dict[str, Any]]:
    return pool("gloo").run("zero_traits.traits", 3)


def trait(name: str) -> list[Any]:
    """What each rank found."""
    return [rank[name] for rank in traits()]


def test_runs_repeat_bit_by_bit() -> None:
    assert trait("reruns") == [[True] * 3] * 3


@pytest.mark.parametrize(
    "case", ["clipping", "recomputed", "odd_passes", "different_use", "taken_over"]
)
def test_what_models_and_loops_do_besides_changes_nothing(case: str) -> None:
    for errors in trait(case):
        assert max(errors) <= 1e-10


def test_frozen_parameters_stay_and_the_others_train() -> None:
    for rank in trait("frozen"):
        assert max(rank[::2]) <= 1e-10
        assert rank[1::2] == [True] * 3


def test_bytes_on_a_rank_follow_zeros_formula() -> None:
    for size, rows in trait("state_bytes"):
        most = size + 8  # up to 2 of padding in each of 4 units
        for row, gradients, parameters in zip(rows, (3, 1, 1), (3, 3, 1), strict=True):
            assert size <= row[0] * 3 // parameters <= most
            assert size <= row[1] * 3 // gradients <= most
            assert row[2] <= 2 * most // 3
    moments = sum(rows[0][2] for _, rows in trait("state_bytes"))
    assert moments == 2 * trait("state_bytes")[0][0]  # every element's, once


def test_stage_3_has_two_units_whole_at_most_and_afterwards_none() -> None:
    for found in trait("memory_at_work"):
        assert max(found["whole"]) == 2
        assert found["after"] == 157  # (463 elements and 8 of padding) / 3
        assert found["shapes"] and found["nan"]


def test_low_precision_trains_nearly_alike_from_exact_pieces() -> None:
    for rank in trait("low_precision"):
        for distance, dtypes in rank:
            assert distance < 0.1
            assert dtypes == ["bfloat16", "float32", "float32", "float32"]


def test_an_overflow_on_one_rank_has_all_skip_the_step() -> None:
    assert trait("overflow") == [[[256.0, True], [128.0, False], [128.0, True]]] * 3


def test_control_values_come_with_synchronised_gradients_alone() -> None:
    assert trait("controls") == [[None, [3.0, 6.0, 3.0, 1.5], None, True] * 3] * 3


def test_gradients_kept_apart_are_averaged_later_and_never_stepped_with() -> None:
    for refusal, *errors in trait("kept_apart"):
        assert refusal == "backward ran inside no_sync alone: leave it before step()"
        assert max(errors) <= 1e-10


def test_held_parts_make_up_the_model_and_the_optimizers_state() -> None:
    for rank in trait("held_parts") + trait("held_by_torch"):
        for is_complete, error in rank:
            assert is_complete and error <= 1e-10


def test_the_whole_model_can_be_used_by_one_rank_and_follows_reloaded_pieces() -> None:
    first, *others = trait("alone_inside_whole")
    assert first == [True] * 6
    assert others == [[True] * 3] * 2


def test_a_unit_may_hand_out_its_own_parameter() -> None:
    assert trait("lent_memory") == [[True] * 3] * 3


@pytest.mark.parametrize(("stage", "act"), [(1, "averaged"), (3, "gathered")])
def test_a_lost_rank_is_an_error_that_names_rank_and_unit(stage: int, act: str) -> None:
    said, _ = run_ranks("gloo", 2, PROGRAMS / "zero_lost.py", str(stage))
    assert said.startswith("rank 0 lost another while unit '") and f"was {act}:" in said
