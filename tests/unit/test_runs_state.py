"""A run's state is derived by one pure function."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dto.runs.files import Journal, write_json
from dto.runs.paths import create_run
from dto.runs.processes import boot_id, process_started
from dto.runs.requests import pending, post
from dto.runs.state import (
    Facts,
    State,
    commit_key,
    committed,
    derive,
    read_status,
)

NOW = 1000.0
BEGUN: dict[str, Any] = {"t": 900.0, "kind": "state", "state": "RUNNING", "submission": 1}
BEAT: dict[str, Any] = {"t": 999.0, "kind": "beat"}
STOPPED = {"state": "STOPPED", "exit_code": 85, "then": "leave", "text": "stopped", "submission": 1}
REQUEUED = {
    "state": "PREEMPTED",
    "exit_code": 85,
    "then": "requeue",
    "text": "limit",
    "submission": 1,
}


def facts(**changes: Any) -> Facts:
    given: dict[str, Any] = {
        "submission": 1,
        "attempt": 1,
        "submitted": 890.0,
        "rows": [BEGUN, BEAT],
        "result": None,
        "requests": [],
        "scheduler_word": None,
        "coordinator_alive": None,
        "commit": None,
    }
    return Facts(**{**given, **changes})


CANCEL = [{"kind": "cancel", "t": 895.0}]
STOP = [{"kind": "stop", "t": 895.0}]
OLD = [{**BEGUN, "submission": 0}]
CASES = [
    ("queued", facts(rows=[], scheduler_word="PENDING"), State.QUEUED),
    ("has nodes", facts(rows=[], scheduler_word="RUNNING"), State.STARTING),
    ("local, starting", facts(rows=[], submitted=NOW - 1), State.STARTING),
    ("running", facts(), State.RUNNING),
    ("slurm running", facts(scheduler_word="RUNNING"), State.RUNNING),
    ("recovering", facts(rows=[{**BEGUN, "state": "RECOVERING"}, BEAT]), State.RECOVERING),
    ("saving", facts(rows=[{**BEGUN, "state": "STOPPING"}, BEAT]), State.RUNNING),
    ("local, killed", facts(coordinator_alive=False), State.FAILED),
    ("silent", facts(rows=[BEGUN]), State.FAILED),
    ("slurm forgot it", facts(scheduler_word=""), State.FAILED),
    ("slurm cancelled", facts(scheduler_word="CANCELLED", requests=CANCEL),
     State.CANCELLED),
    ("cancelled while queued", facts(rows=[], scheduler_word="", requests=CANCEL),
     State.CANCELLED),
    ("stopped while queued", facts(rows=[], scheduler_word="", requests=STOP),
     State.STOPPED),
    ("stopped", facts(result=STOPPED), State.STOPPED),
    ("requeued, waiting", facts(result=REQUEUED, scheduler_word="PENDING"), State.PREEMPTED),
    ("requeued, never came", facts(result=REQUEUED, scheduler_word=""), State.STOPPED),
    ("node lost, waiting", facts(scheduler_word="PENDING"), State.PREEMPTED),
    ("requeued, cancelled",
     facts(result=REQUEUED, scheduler_word="CANCELLED", requests=[{"kind": "cancel", "t": 999.5}]),
     State.CANCELLED),
    ("requeued, nobody to ask", facts(result=REQUEUED, coordinator_alive=False, is_batch=True),
     State.PREEMPTED),
    ("taken out, nobody to ask",
     facts(result=REQUEUED, requests=[{"kind": "stop", "t": 999.5}], is_batch=True),
     State.STOPPED),
    ("queued, nobody to ask", facts(rows=[], is_batch=True), State.QUEUED),
    ("suspended", facts(rows=[BEGUN], scheduler_word="SUSPENDED"), State.RUNNING),
    ("cancelled, resumed, killed",
     facts(scheduler_word="FAILED", requests=[{"kind": "cancel", "t": 100.0}]), State.FAILED),
    ("resumed, queued", facts(submission=2, rows=OLD, result=STOPPED, scheduler_word="PENDING"),
     State.QUEUED),
    ("resumed, has nodes", facts(submission=2, rows=OLD, result=STOPPED, scheduler_word="RUNNING"),
     State.STARTING),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "state"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_the_state_follows_from_the_facts(case: Facts, state: State) -> None:
    assert derive(case, NOW)[0] is state


def test_a_killed_local_run_is_known_at_once_from_its_process(tmp_path: Path) -> None:
    run = create_run(tmp_path, "killed")
    number = run.add_submission()
    job = {"scheduler": "local", "job_id": None, "submitted": time.time() - 1}
    write_json(run.submission(number) / "job.json", job)
    journal = Journal(run.claim_attempt().journal)
    row = {"t": time.time(), "kind": "state", "state": "RUNNING", "submission": number, "world": 2,
           "host": socket.gethostname(), "pid": os.getpid(), "boot_id": boot_id(),
           "started": process_started(os.getpid())}  # fmt: skip
    journal.append(row)
    assert read_status(run, None, time.time()).state is State.RUNNING
    journal.append({**row, "started": 1})  # the same pid, another process
    status = read_status(run, None, time.time())
    assert status.state is State.FAILED and status.resumable
    journal.close()


def test_commits_count_by_attempt_then_generation_then_step(tmp_path: Path) -> None:
    for name in ("step-300.a1g0", "step-20.a2g0", "step-9.a2g1", "step-400.a2g1", "step-x", "best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "step-500.a3g0").mkdir()  # no manifest: not committed
    assert committed(tmp_path) == ["step-300.a1g0", "step-20.a2g0", "step-9.a2g1", "step-400.a2g1"]
    assert commit_key("step-7.a2g11") == (2, 11, 7)
    assert commit_key("step-7.a2") is None


def test_requests_are_read_in_the_order_they_were_made(tmp_path: Path) -> None:
    run = create_run(tmp_path, "asked")
    began = time.time()
    post(run, "stop", then="leave")
    post(run, "cancel")
    assert [row["kind"] for row in pending(run)] == ["stop", "cancel"]
    assert pending(run, since=time.time()) == []
    assert len(pending(run, since=began - 1)) == 2
