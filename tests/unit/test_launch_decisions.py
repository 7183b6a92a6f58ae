"""When to stop and what a job came to: pure, so every case is a line."""

from __future__ import annotations

from typing import Any

import pytest

from dto.launch.generation import Generation
from dto.launch.hub import Hub
from dto.launch.outcome import Ended, decide, found_port_taken, judge, stopped_before_start
from dto.launch.stopping import Order, grace, is_early_warning, parse_time_left, save_budget
from dto.runs.verdict import Ending, classify

PERSON = Order("`dto stop`", "person")
CLOCK = Order("the time limit", "deadline")
SLURM = Order("SIGUSR1", "scheduler")
CANCEL = Order("`dto cancel`", "person", kill=True)


def ending(rank: int, code: int | None, **more: Any) -> Ending:
    return Ending(rank, "n", 0, code, more.pop("signal", None), 1.0, **more)


SAVED = [ending(0, 85), ending(1, 85)]
KILLED = [ending(0, None, signal=9, killed=True), ending(1, None, signal=9, killed=True)]


@pytest.mark.parametrize(
    ("seconds", "fixed", "last", "budget"),
    [
        (None, None, None, 120),
        (120, None, None, 15),
        (40, None, None, 10),
        (86_400, None, None, 120),
        (120, None, 20.0, 60),
        (120, 5.0, 20.0, 5),
    ],
)
def test_the_save_budget(
    seconds: float | None, fixed: float | None, last: float | None, budget: float
) -> None:
    assert save_budget(seconds, fixed, last) == budget


@pytest.mark.parametrize(
    ("remaining", "is_early"), [(10, False), (40, True), (150, True), (600, False)]
)
def test_slurms_early_warning_is_told_from_a_preemption(remaining: float, is_early: bool) -> None:
    assert is_early_warning(1000.0, 1000.0 + remaining, budget=30.0) is is_early
    assert not is_early_warning(1000.0, None, budget=30.0)


def test_ranks_get_time_to_save_but_not_beyond_the_deadline() -> None:
    assert grace(0.0, None, 10.0) == 30.0
    assert grace(0.0, 20.0, 60.0) == 17.0
    assert grace(0.0, 2.0, 60.0) == 1.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:42", 42),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-00:00:01", 86_401),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_squeues_time_left(text: str, seconds: float | None) -> None:
    assert parse_time_left(text) == seconds


@pytest.mark.parametrize(
    ("order", "may_requeue", "is_progress", "state", "then"),
    [
        (PERSON, True, True, "STOPPED", "leave"),
        (CLOCK, True, True, "PREEMPTED", "requeue"),
        (SLURM, True, True, "PREEMPTED", "requeue"),
        (CLOCK, False, True, "STOPPED", "leave"),
        (CLOCK, True, False, "STOPPED", "leave"),
        (None, True, True, "STOPPED", "leave"),
    ],
)
def test_a_saved_job_goes_on_only_where_that_leads_somewhere(
    order: Order | None, may_requeue: bool, is_progress: bool, state: str, then: str
) -> None:
    outcome = decide(judge(SAVED, [], order), may_requeue, "step-9.a1g0", is_progress)
    assert (outcome.state, outcome.then, outcome.exit_code) == (state, then, 85)


@pytest.mark.parametrize(
    ("order", "state", "code"),
    [(CANCEL, "CANCELLED", 130), (PERSON, "CANCELLED", 130), (CLOCK, "FAILED", 124)],
)
def test_what_was_killed_without_saving(order: Order, state: str, code: int) -> None:
    outcome = decide(judge(KILLED, [], order, was_terminated=True), True, None, False)
    assert (outcome.state, outcome.then, outcome.exit_code) == (state, "leave", code)


def test_a_crash_while_saving_is_a_failure_with_its_cause() -> None:
    crash = [ending(0, 1, error_type="OSError", message="no space left"), ending(1, 85)]
    outcome = decide(judge(crash, [], PERSON), True, None, False)
    assert (outcome.state, outcome.exit_code) == ("FAILED", 1)
    assert "no space left" in outcome.text


def test_a_job_that_finished_before_it_could_stop_is_complete() -> None:
    done = [ending(0, 0), ending(1, 0)]
    assert decide(judge(done, [], PERSON), True, None, False).state == "COMPLETED"


def test_a_lost_node_requeues_a_batch_job_that_had_come_further() -> None:
    lost = Ended(classify([], ["n3"]))
    assert decide(lost, True, "step-9.a1g0", True, replaces_nodes=True).then == "requeue"
    assert decide(lost, True, "step-9.a1g0", True).state == "FAILED"
    assert decide(lost, True, None, False, replaces_nodes=True).state == "FAILED"


def test_stopped_before_any_rank_started() -> None:
    outcome = decide(stopped_before_start(PERSON), True, None, False)
    assert (outcome.state, outcome.exit_code) == ("CANCELLED", 130)


def test_only_rank_0s_port_counts() -> None:
    taken = "EADDRINUSE: address already in use"
    assert found_port_taken([ending(0, 1, message=taken)])
    assert not found_port_taken([ending(1, 1, message=taken), ending(0, 0, message=taken)])


def test_ctrl_c_in_a_script_that_has_the_terminal_is_no_failure() -> None:
    interrupted = judge([ending(0, None, signal=2)], [], None)
    outcome = decide(interrupted, True, None, False)
    assert (outcome.state, outcome.exit_code) == ("CANCELLED", 130)


def test_a_person_has_the_last_word_on_whether_a_stopping_job_goes_on() -> None:
    generation = Generation(0, Hub("token", 30.0), 1)
    generation.is_started = generation.is_cooperative = True
    orders = [CLOCK, CLOCK, SLURM, PERSON, CLOCK, PERSON, CANCEL, PERSON]
    news = [generation.on_order(order, None, 10.0) for order in orders]
    assert news == [True, False, False, True, False, False, True, False]
    assert generation.order is CANCEL
    lost = Ended(classify([], ["n2"]), PERSON)
    assert decide(lost, True, "step-9.a1g0", True, replaces_nodes=True).then == "leave"
