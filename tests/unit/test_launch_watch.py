"""Orders to stop, where SLURM takes its time to answer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dto.launch.stopping import Order
from dto.launch.watch import StopWatch
from dto.runs.paths import create_run
from tests.helpers import wait_for

SCANCEL = Order("scancel", "person")


def watch(root: Path, is_ending: Callable[[], bool] | None) -> StopWatch:
    return StopWatch(create_run(root, "test"), lambda: None, None, None, is_ending)


@pytest.mark.parametrize(
    ("is_ending", "order"),
    [
        (lambda: True, SCANCEL),
        (lambda: False, Order("SIGTERM", "scheduler")),
        (None, Order("SIGTERM", "person")),
    ],
    ids=["scancel", "preemption", "no batch job"],
)
def test_a_sigterm_means_what_slurm_says_of_the_job(
    tmp_path: Path, is_ending: Callable[[], bool] | None, order: Order
) -> None:
    stops = watch(tmp_path, is_ending)
    assert stops.on_signal(signal.SIGTERM) == order
    assert stops.asked() is None


@pytest.mark.timeout(30)
def test_saving_begins_before_a_late_answer_which_is_heard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dto.launch.watch._ANSWER_SECONDS", 0.05)
    answered = threading.Event()
    stops = watch(tmp_path, answered.wait)
    assert stops.on_signal(signal.SIGTERM) == Order("SIGTERM", "scheduler")
    assert stops.asked() is None
    answered.set()
    assert wait_for(stops.asked, timeout=10) == SCANCEL
    assert stops.asked() is None


@pytest.mark.timeout(30)
def test_a_deadline_that_slurm_does_not_confirm_in_time_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dto.launch.watch._ANSWER_SECONDS", 0.05)
    answers, never = [1.0], threading.Event()

    def ask() -> float | None:
        if not answers:
            never.wait(20)
            return None
        return answers.pop()

    stops = StopWatch(create_run(tmp_path, "test"), ask, None, 1.0)
    assert stops.tick() == Order("the time limit", "deadline")
    never.set()
