"""Real ranks that push and pull: equal to one process, within their bound, and never a hang."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import PROGRAMS
from tests.processes.pool import pool
from tests.processes.ranks import run_ranks

pytestmark = [pytest.mark.process, pytest.mark.ranks]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_in_step_ranks_equal_one_process_with_uneven_batches_and_any_servers(world: int) -> None:
    ranks = pool("gloo").run("parameter_server.synchronous", world)
    for rank in ranks:
        assert len(rank) == 2 * min(world, 3)
        for case, (parameters, norms, digests) in rank.items():
            assert parameters <= 1e-10 and norms <= 1e-10, case
            assert len(set(digests)) == 1, f"{case} differs from run to run"
    assert len({json.dumps([case[2] for case in rank.values()]) for rank in ranks}) == 1


def test_ranks_that_do_not_wait_learn_and_end_with_one_model() -> None:
    ranks = pool("gloo").run("parameter_server.free_running", 3)
    for mode in ("asynchronous", "bounded"):
        assert len({rank[mode][2] for rank in ranks}) == 1
        before, after, _ = ranks[0][mode]
        assert after < before / 4


def test_the_trainer_takes_each_mode_and_its_bound(tmp_path: Path) -> None:
    ranks = pool("gloo").run(
        "matrix.train",
        3,
        run_dir=str(tmp_path),
        epochs=2,
        optimizer="adamw",
        dtype="float32",
        strategy="ps",
        server_mode="bounded",
        staleness=1,
        servers=2,
    )
    assert [rank["steps"] for rank in ranks] == [20] * 3
    assert ranks[0]["losses"][1] < ranks[0]["losses"][0]


@pytest.mark.parametrize("staleness", [0, 2, 5])
def test_no_rank_is_further_ahead_than_its_bound(staleness: int) -> None:
    arguments = {"mode": "bounded", "staleness": staleness, "lead": staleness}
    fast, slow = pool("gloo").run("parameter_server.a_slow_rank", 2, **arguments)
    assert max(fast) == staleness
    assert slow[: 12 - staleness] == [0] * (12 - staleness)


def test_without_a_bound_a_rank_may_be_done_before_another_begins() -> None:
    arguments = {"mode": "asynchronous", "staleness": None, "lead": 12}
    fast, slow = pool("gloo").run("parameter_server.a_slow_rank", 2, **arguments)
    assert fast == list(range(1, 13))
    assert set(slow) == {0}


@pytest.mark.parametrize(
    ("mode", "staleness"), [("synchronous", None), ("asynchronous", None), ("bounded", 2)]
)
def test_a_stop_reaches_all_ranks_after_one_and_the_same_step(
    mode: str, staleness: int | None
) -> None:
    ranks = pool("gloo").run("parameter_server.wishes", 3, mode=mode, staleness=staleness)
    saves, stops = ({json.dumps(rank[what]) for rank in ranks} for what in ("save", "stop"))
    assert len(saves) == len(stops) == 1
    if mode == "synchronous":
        assert saves == {"[4]"} and stops == {"[9]"}
        assert [rank["samples"] for rank in ranks] == [2.0 * 3 * 9] * 3


def test_schedulers_and_loaded_states_reach_the_server() -> None:
    first, second = pool("gloo").run("parameter_server.keeps_its_settings", 2)
    assert first == [1.75, [-3.0], ["weight"], 0.25]
    assert second == [1.75, [], [], 0.25]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "quick"}, "no parameter server mode 'quick': use one of synchronous, asynch"),
        ({"mode": "bounded", "staleness": -1}, "a whole number from 0 on, not -1"),
        ({"mode": "asynchronous", "staleness": 2}, "staleness goes with mode bounded"),
        ({"servers": 3}, "servers must be from 1 to 2"),
    ],
)
def test_settings_that_cannot_be_are_one_line(settings: dict[str, object], words: str) -> None:
    for outcome in pool("gloo").outcomes("parameter_server.refused", 2, **settings):
        assert outcome["kind"] == "ConfigError"
        assert words in outcome["error"] and "\n" not in outcome["error"]


@pytest.mark.horovod
def test_horovod_says_that_it_cannot_send() -> None:
    for outcome in pool("horovod", 2).outcomes("parameter_server.refused", 2):
        assert outcome["kind"] == "ConfigError" and "use --backend gloo" in outcome["error"]


def test_who_is_late_or_lost_is_named_by_all_who_are_left() -> None:
    outputs = run_ranks("gloo", 4, PROGRAMS / "parameter_server.py", codes=[0, 9, 0, 9])
    found = [json.loads(out) if out else {} for out in outputs]
    for rank in (0, 1, 2):
        assert "rank 3 pushed no step within 1 s" in found[rank]["late"]
        assert "rank 3 went away" in found[rank]["worker lost"]
    assert "rank 3" in found[3]["late"]
    assert "rank 0, a parameter server, went away" in found[2]["server lost"]
    assert found[0]["exit"] == "fine"
