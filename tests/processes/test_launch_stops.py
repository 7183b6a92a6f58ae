"""Everything that asks a job to stop becomes one word; what cannot save is told apart."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dto.runs.requests import post
from tests.processes.launching import (
    COOPERATIVE,
    ROOT,
    SLEEPER,
    finish,
    has_said,
    has_stepped,
    job_argv,
    journal,
    make_run,
    result,
    started,
    wait_until,
)

CATCHER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved by myself"), sys.exit(0)))
print("asleep", flush=True)
time.sleep(60)
"""
STUBBORN = COOPERATIVE.replace("if link.stop_requested", "if False")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_ranks_save_and_leave(tmp_path: Path, number: signal.Signals) -> None:
    run = make_run(tmp_path, COOPERATIVE, args=["2000"])
    with started(run) as job:
        wait_until(has_stepped(run))
        job.send_signal(number)
        assert job.wait(30) == 85
    found = result(run)
    assert (found["state"], found["then"]) == ("STOPPED", "leave")
    assert found["commit"].startswith("step-")


def test_the_second_ctrl_c_kills(tmp_path: Path) -> None:
    run = make_run(tmp_path, STUBBORN, args=["2000"])
    with started(run) as job:
        wait_until(has_stepped(run))
        job.send_signal(signal.SIGINT)
        wait_until(lambda: bool(journal(run, "request")))
        job.send_signal(signal.SIGINT)
        assert job.wait(20) == 130
    assert result(run)["state"] == "CANCELLED"


def test_ctrl_c_ends_a_script_that_cannot_save(tmp_path: Path) -> None:
    run = make_run(tmp_path, SLEEPER)
    with started(run) as job:
        wait_until(has_said(run, "asleep"))
        job.send_signal(signal.SIGINT)
        assert job.wait(20) == 130
    assert "does not save on request" in result(run)["text"]


def test_dto_stop_and_dto_cancel(tmp_path: Path) -> None:
    for kind, state, code in (("stop", "STOPPED", 85), ("cancel", "CANCELLED", 130)):
        run = make_run(tmp_path, COOPERATIVE, args=["2000"])
        with started(run) as job:
            wait_until(has_stepped(run))
            post(run, kind)  # type: ignore[arg-type]
            assert job.wait(30) == code
        assert result(run)["state"] == state and f"dto {kind}" in result(run)["text"]


def test_a_request_to_an_earlier_attempt_is_not_obeyed_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, COOPERATIVE, args=["5"])
    post(run, "stop")
    assert finish(run).returncode == 0


def test_the_time_limit_leads_to_the_next_attempt_until_it_is_done(tmp_path: Path) -> None:
    run = make_run(tmp_path, COOPERATIVE, args=["800"], time_seconds=15, save_budget=1)
    assert finish(run, timeout=110).returncode == 0
    assert len(run.attempts()) >= 2
    steps = [
        row["step"] for attempt in run.attempts() for row in _metrics(run.attempt(attempt).journal)
    ]
    assert steps == list(range(1, 801))


def test_a_run_that_makes_no_progress_does_not_go_round_for_ever(tmp_path: Path) -> None:
    forgetful = COOPERATIVE.replace("range(first + 1, steps + 1)", "[1, 2, 3, *[4] * steps]")
    run = make_run(tmp_path, forgetful, args=["9999"], time_seconds=8, save_budget=1)
    finish(run)
    assert len(run.attempts()) == 2
    assert result(run)["state"] == "STOPPED" and "no progress" in result(run)["text"]


def test_running_out_of_time_without_saving_is_a_failure(tmp_path: Path) -> None:
    run = make_run(tmp_path, SLEEPER, time_seconds=11, save_budget=10)
    assert finish(run, timeout=30).returncode == 124
    assert "ran out of time" in result(run)["text"]


def test_a_script_that_handles_sigterm_gets_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, CATCHER)
    with started(run) as job:
        wait_until(has_said(run, "asleep"))
        post(run, "stop")
        assert job.wait(30) == 0
    assert "saved by myself" in (run.path / "attempt-1/rank-1.g0.log").read_text()


def test_a_single_rank_keeps_the_terminal(tmp_path: Path) -> None:
    """pdb works: what is typed reaches the script, and Ctrl-C reaches it alone."""
    script = "name = input('who? ')\nbreakpoint()\nprint('hello', name)\n"
    run = make_run(tmp_path, script, ranks_per_node=1)
    main, side = pty.openpty()
    job = subprocess.Popen(
        job_argv(run), cwd=ROOT, stdin=side, stdout=side, stderr=side, start_new_session=True
    )
    os.close(side)
    seen = b""
    for wanted, typed in ((b"who? ", b"Ada\n"), (b"(Pdb) ", b"p name * 2\n"), (b"AdaAda", b"c\n")):
        seen += _read_until(main, wanted)
        os.write(main, typed)
    seen += _read_until(main, b"hello Ada")
    assert job.wait(20) == 0
    os.close(main)


def _read_until(terminal: int, words: bytes) -> bytes:
    seen, end = b"", time.monotonic() + 20
    while words not in seen:
        assert time.monotonic() < end, seen
        seen += os.read(terminal, 4096)
    return seen


def _metrics(path: Path) -> list[dict[str, int]]:
    from dto.runs.files import read_rows

    return [r for r in read_rows(path) if r["kind"] == "metric" and r["rank"] == 0]
