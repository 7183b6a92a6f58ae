"""However a job ends, the verdict names who began it and no process is left behind."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.processes.launching import (
    COOPERATIVE,
    SLEEPER,
    children,
    finish,
    has_said,
    is_alive,
    journal,
    make_run,
    result,
    started,
    wait_until,
)

ONE_FAILS = """
import os, signal, sys, torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == 1:
    {fault}
dist.barrier()
"""


PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
)


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("sys.exit(3)", 3, "exited 3"),
        ("raise KeyError('lost')", 1, "KeyError: 'lost'"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "SIGSEGV"),
    ],
)
def test_the_verdict_names_the_culprit_not_its_victims(
    tmp_path: Path, fault: str, code: int, words: str
) -> None:
    run = make_run(tmp_path, ONE_FAILS.format(fault=fault), ranks_per_node=3)
    done = finish(run)
    verdict = result(run)["verdict"]
    assert done.returncode == code
    assert (verdict["rank"], verdict["node"]) == (1, socket.gethostname())
    assert verdict["victims"] == [0, 2]
    assert words in verdict["cause"] and words in done.stderr


def test_ranks_that_hang_are_ended_soon_after_one_failed(tmp_path: Path) -> None:
    script = "import os, sys, time\nif os.environ['RANK'] == '0': sys.exit(9)\ntime.sleep(600)\n"
    run = make_run(tmp_path, script)
    assert finish(run, timeout=20).returncode == 9
    assert [row["killed"] for row in journal(run, "ending")] == [False, True]


def test_a_rank_killed_from_outside_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, SLEEPER)
    with started(run) as job:
        wait_until(has_said(run, "asleep"))
        (agent,) = children(job.pid)
        os.kill(_rank_of(agent, 1), signal.SIGKILL)
        assert job.wait(20) == 137
    assert result(run)["verdict"]["rank"] == 1


def test_a_killed_agent_takes_its_ranks_along_and_its_node_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, SLEEPER, nodes=2, ranks_per_node=1)
    with started(run) as job:
        wait_until(has_said(run, "asleep"))
        first, second = sorted(children(job.pid))
        ranks = [_rank_of(first, 0), _rank_of(second, 1)]
        os.kill(second, signal.SIGKILL)
        assert job.wait(20) == 1
    verdict = result(run)["verdict"]
    assert (verdict["kind"], verdict["node"]) == ("agent-lost", f"{socket.gethostname()}-1")
    wait_until(lambda: not any(map(is_alive, ranks)))


def test_a_killed_job_leaves_no_process(tmp_path: Path) -> None:
    run = make_run(tmp_path, SLEEPER)
    with started(run) as job:
        wait_until(has_said(run, "asleep"))
        (agent,) = children(job.pid)
        everybody = [agent, *children(agent)]
        job.kill()
        wait_until(lambda: not any(map(is_alive, everybody)))


@pytest.mark.parametrize("victim", ["agent", "job"])
def test_what_a_rank_forked_ends_though_its_agent_was_killed(tmp_path: Path, victim: str) -> None:
    run = make_run(tmp_path, PARENT + "time.sleep(60)\n")
    with started(run) as job:
        wait_until(has_said(run, "\n"))
        logs = [run.path / f"attempt-1/rank-{rank}.g0.log" for rank in (0, 1)]
        forked = [int(log.read_text()) for log in logs]
        (agent,) = children(job.pid)
        assert all(map(is_alive, forked))
        os.kill(agent if victim == "agent" else job.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, forked)))


def test_what_a_rank_left_running_ends_with_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, PARENT, ranks_per_node=1)
    assert finish(run, timeout=20).returncode == 0
    pid = int((run.path / "attempt-1/rank-0.g0.log").read_text())
    wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize("victim", ["rank", "agent"])
def test_a_retry_goes_on_in_a_new_generation(tmp_path: Path, victim: str) -> None:
    kill = "os.getpid()" if victim == "rank" else "os.getppid()"
    once = (
        "import os, signal\n"
        "if os.environ['DTO_GENERATION'] == '0' and os.environ['RANK'] == '1':\n"
        f"    os.kill({kill}, signal.SIGKILL)\n"
    )
    run = make_run(tmp_path, once + COOPERATIVE, args=["10"], retries=1)
    done = finish(run)
    assert done.returncode == 0, done.stderr
    words = [row["state"] for row in journal(run, "state")]
    assert words == ["STARTING", "RUNNING", "RECOVERING", "RUNNING"]
    assert result(run)["state"] == "COMPLETED" and result(run)["last_step"] == 10


def test_a_taken_port_is_a_new_generation_not_a_failure(tmp_path: Path) -> None:
    script = (
        "import os, socket\n"
        "taken = socket.socket()\n"
        "port = int(os.environ['MASTER_PORT'])\n"
        "if os.environ['DTO_GENERATION'] == '0':\n"
        "    if os.environ['RANK'] == '0':\n"
        "        taken.bind(('', port)); socket.socket().bind(('', port))\n"
        "    import time; time.sleep(30)\n"
    )
    run = make_run(tmp_path, script)
    done = finish(run)
    assert done.returncode == 0, done.stderr
    assert journal(run, "state")[-1]["generation"] == 1


def test_nobody_arriving_is_said_with_the_reason(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    run = make_run(tmp_path, SLEEPER)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import os, sys\nif 'DTO_TOKEN' in os.environ: os._exit(4)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "broken")}
    with started(run, env=environment) as job:
        _, err = job.communicate(timeout=20)
    assert job.returncode == 1 and "the agent left with 4" in err


def _rank_of(agent: int, rank: int) -> int:
    for pid in children(agent):
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"rank {rank} is not there")
