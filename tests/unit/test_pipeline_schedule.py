"""Pipeline schedules: complete, free of deadlocks, as good as the papers say, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dto.errors import ConfigError
from dto.runtime.pipeline.schedule import Action, Kind, Plan, make_plan, peak_in_flight
from dto.runtime.pipeline.simulation import bubble, draw, find_fault

ANY = [
    (stages, micro_batches, schedule, chunks)
    for stages in range(1, 7)
    for micro_batches in range(1, 13)
    for schedule, chunks in [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("interleaved", 3)]
    if schedule != "interleaved" or micro_batches % stages == 0
]
CASES = st.sampled_from(ANY)


@given(CASES)
def test_a_plan_is_complete_and_never_stuck(case: tuple[int, int, str, int]) -> None:
    assert find_fault(make_plan(*case), case[1], case[3]) == ""


@given(CASES)
def test_gradients_add_up_in_one_order_whatever_the_schedule(
    case: tuple[int, int, str, int],
) -> None:
    for actions in make_plan(*case):
        for chunk in range(case[3]):
            backward = [a for a in actions if a.kind is Kind.BACKWARD and a.chunk == chunk]
            assert [action.micro_batch for action in backward] == list(range(case[1]))


@given(CASES)
def test_the_bubble_is_the_one_of_the_papers(case: tuple[int, int, str, int]) -> None:
    stages, micro_batches, _, chunks = case
    assert bubble(*case) == pytest.approx((stages - 1) / (chunks * micro_batches + stages - 1))


@given(CASES)
def test_1f1b_holds_at_most_as_many_activations_as_stages_follow(
    case: tuple[int, int, str, int],
) -> None:
    stages, micro_batches, schedule, _ = case
    for stage, actions in enumerate(make_plan(*case)):
        if schedule == "1f1b":
            assert peak_in_flight(actions) == min(micro_batches, stages - stage)
        if schedule == "gpipe":
            assert peak_in_flight(actions) == micro_batches


def test_a_deadlock_is_found_and_says_who_waits_for_what() -> None:
    first, second = make_plan(2, 2, "gpipe")
    crossed: Plan = (first, (second[0], second[2], second[1], second[3]))
    assert find_fault(crossed, 2) == ""  # backward before the next forward: 1F1B
    too_early = (first[:1] + first[2:3] + first[1:2] + first[3:], second)
    assert find_fault(too_early, 2) == (
        "stage 0 waits for the gradient of micro-batch 0 for chunk 0;"
        " stage 1 waits for the activation of micro-batch 1 for chunk 0"
    )


def test_a_plan_with_a_gap_or_a_twist_is_found() -> None:
    one = make_plan(1, 2, "gpipe")[0]
    assert "every action once" in find_fault((one[1:],), 2)
    assert "every action once" in find_fault((one + one[-1:],), 2)
    assert "backward before forward" in find_fault((one[::-1],), 2)
    assert Action(Kind.FORWARD, 0) == one[0]


def test_a_plan_draws_itself() -> None:
    assert draw(2, 3).splitlines() == [
        "stage 0 | F0 F1 ·  ·  B0 -- F2 B1 -- ·  B2 --",
        "stage 1 | ·  F0 B0 -- F1 B1 -- F2 B2 -- ·  ·",
    ]
    assert "F0b" in draw(2, 2, "interleaved", 2)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((4, 6, "interleaved", 2), "4 stages divide, got 6: use 4 or 8, or schedule 1f1b"),
        ((4, 3, "interleaved", 2), "use 4, or schedule 1f1b"),
        ((4, 4, "interleaved", 1), "chunks of 2 or more"),
        ((2, 4, "1f1b", 2), "1 chunk per stage, got 2: use 1, or interleaved"),
        ((2, 4, "zigzag", 1), "use one of gpipe, 1f1b, interleaved"),
        ((2, 0, "1f1b", 1), "at least 1 stage and 1 micro-batch, got 2 and 0"),
    ],
)
def test_an_impossible_plan_is_refused_with_what_is_legal(
    numbers: tuple[int, int, str, int], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        make_plan(*numbers)
    assert "\n" not in str(refused.value)
