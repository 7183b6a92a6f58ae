"""Rows from a rank: never blocking, never raising, and the last one always arrives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dto.telemetry.link import CAPACITY, Link
from dto.telemetry.sinks import FileSink, SocketSink


class Agent:
    """A unix socket that keeps the rows it gets and can say a word back."""

    def __init__(self) -> None:
        self.name = f"@dto-test-{os.getpid()}-{time.monotonic_ns()}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("\0" + self.name[1:])
        self._listener.listen()
        self.rows: list[dict[str, Any]] = []
        self.caller: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self.caller, _ = self._listener.accept()
        except OSError:
            return
        with self.caller.makefile("rb") as lines:
            for line in lines:
                self.rows.append(json.loads(line))

    def close(self) -> None:
        if self.caller is not None:
            self.caller.shutdown(socket.SHUT_RDWR)
        else:
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        if self.caller is not None:
            self.caller.close()
        self._listener.close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    found = Agent()
    yield found
    found.close()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_rows_arrive_in_order_after_a_hello(agent: Agent) -> None:
    link = Link(SocketSink(agent.name), rank=3)
    for step in range(50):
        link.post("metric", step=step, values={"loss": 0.5})
    link.post("event", name="done")
    assert link.flush(5)
    wait_until(lambda: len(agent.rows) == 52)
    assert agent.rows[0] | {"t": 0} == {
        "t": 0,
        "kind": "hello",
        "rank": 3,
        "pid": os.getpid(),
        "cooperative": True,
    }
    assert [row["step"] for row in agent.rows[1:-1]] == list(range(50))


def test_the_stop_word_is_heard(agent: Agent) -> None:
    link = Link(SocketSink(agent.name), rank=0)
    assert link.stop_requested is None
    wait_until(lambda: agent.caller is not None)
    assert agent.caller is not None
    agent.caller.sendall(b'{"stop": {"reason": "dto stop", "deadline": 12.5}}\n')
    wait_until(lambda: link.stop_requested is not None)
    word = link.stop_requested
    assert word is not None and (word.reason, word.deadline) == ("dto stop", 12.5)


def test_without_an_agent_posting_goes_on(tmp_path: Path) -> None:
    link = Link(SocketSink("@dto-nobody-listens"), rank=0)
    link.post("metric", step=1)
    assert link.flush(5)
    assert link.dropped >= 1


class Stuck:
    """A sink that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.lines = b""
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def open(self, hear: Callable[[Mapping[str, Any]], None]) -> None:
        del hear

    def send(self, lines: bytes) -> None:
        self.entered.set()
        self.let_go.wait(20)
        self.lines += lines


def test_a_stuck_agent_costs_old_metrics_but_never_the_last_row_or_time() -> None:
    sink = Stuck()
    link = Link(sink, rank=0)
    assert sink.entered.wait(5)
    began = time.monotonic()
    for step in range(CAPACITY + 500):
        link.post("metric", step=step)
    link.post("commit", step=1)
    assert time.monotonic() - began < 5
    assert link.dropped == 500
    sink.let_go.set()
    assert link.flush(10)
    rows = [json.loads(line) for line in sink.lines.splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "metric"]
    assert steps == list(range(500, CAPACITY + 500))
    assert rows[-1]["kind"] == "commit"


def test_what_json_cannot_hold_becomes_a_number_or_text(tmp_path: Path) -> None:
    link = Link(FileSink(tmp_path / "rows.jsonl"), rank=0)

    class Number:
        def __float__(self) -> float:
            return 2.5

    circle: list[Any] = []
    circle.append(circle)
    link.post("metric", values={"a": Number(), "b": {1, 2}.__class__})
    link.post("event", circle=circle)
    assert link.flush(5)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[1]["values"] == {"a": 2.5, "b": "<class 'set'>"}
    assert rows[2]["name"] == "unwritable-row"


def test_the_last_row_survives_the_end_of_the_process_and_no_agent_means_a_file(
    tmp_path: Path,
) -> None:
    code = "from dto.telemetry import log\nlog({'loss': 1.0}, step=7, acc=0.5)\n"
    env = {**os.environ, "DTO_RUN_DIR": str(tmp_path), "RANK": "4"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=20)
    rows = [json.loads(line) for line in (tmp_path / "rank-4.jsonl").read_text().splitlines()]
    assert rows[0]["cooperative"] is False
    assert (rows[1]["step"], rows[1]["values"]) == (7, {"loss": 1.0, "acc": 0.5})


def test_a_forked_child_is_silent(tmp_path: Path) -> None:
    code = (
        "import os\nfrom dto.telemetry import connect\nlink = connect()\nlink.flush()\n"
        "child = os.fork()\n"
        "if child == 0:\n    link.post('event', name='child')\n    link.flush()\n    os._exit(0)\n"
        "os.waitpid(child, 0)\nlink.post('event', name='parent')\n"
    )
    env = {**os.environ, "DTO_RUN_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=20)
    assert "child" not in (tmp_path / "rank-0.jsonl").read_text()
