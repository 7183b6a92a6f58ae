"""The rank's end of the line to its agent: rows go out, the stop word comes in."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dto.telemetry.sinks import FileSink, Sink, SocketSink

CAPACITY = 10_000
"""Rows kept of each sort while nobody takes them; older metrics give way to newer ones."""
PAUSE_SECONDS = 0.1
"""Rows that come closer together than this travel together."""


@dataclass(frozen=True)
class StopWord:
    """Save and leave with 85, by `deadline` (seconds since the epoch)."""

    reason: str
    deadline: float | None


class Link:
    """Carries rows to the agent from a daemon thread.

    `post` costs a few microseconds, never waits for the agent and never raises: training goes on
    at full speed with a slow, dead or absent agent. A forked child's posts are dropped.
    """

    def __init__(self, sink: Sink | None, rank: int, cooperative: bool = True) -> None:
        self._sink = sink
        self._rank = rank
        self._pid = os.getpid()
        self._metrics: deque[tuple[int, dict[str, Any]]] = deque()
        self._others: deque[tuple[int, dict[str, Any]]] = deque()
        self._numbers = itertools.count()
        self._changed = threading.Condition()  # its lock is re-entrant: signal handlers may post
        self._in_flight = False
        self._stop: StopWord | None = None
        self._cooperative = cooperative
        self.dropped = 0
        if sink is not None:
            self._say_hello()
            threading.Thread(target=self._carry, name="dto-link", daemon=True).start()
            atexit.register(self.flush)

    @property
    def stop_requested(self) -> StopWord | None:
        """The word to stop, once it was given. Ranks hear it at different moments: agree on it."""
        return self._stop

    def post(self, kind: str, **fields: Any) -> None:
        """Queue one row, stamped with the time and the rank."""
        if self._sink is None or os.getpid() != self._pid:
            return
        row = {"t": time.time(), "kind": kind, "rank": self._rank, **fields}
        with self._changed:
            queue = self._metrics if kind == "metric" else self._others
            if len(queue) >= CAPACITY:
                queue.popleft()
                self.dropped += 1
            queue.append((next(self._numbers), row))
            self._changed.notify_all()

    def cooperate(self) -> None:
        """Tell the agent that this rank looks at `stop_requested` and saves when asked."""
        if not self._cooperative:
            self._cooperative = True
            self._say_hello()

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until every row so far was handed over; False if that took too long."""
        if self._sink is None or os.getpid() != self._pid:
            return True
        with self._changed:
            return self._changed.wait_for(self._is_drained, timeout)

    def _say_hello(self) -> None:
        self.post("hello", pid=self._pid, cooperative=self._cooperative)

    def _is_drained(self) -> bool:
        return not (self._metrics or self._others or self._in_flight)

    def _take(self) -> list[dict[str, Any]]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._metrics or self._others))
            rows = sorted([*self._metrics, *self._others], key=lambda numbered: numbered[0])
            self._metrics.clear()
            self._others.clear()
            self._in_flight = True
        return [row for _, row in rows]

    def _delivered(self) -> None:
        with self._changed:
            self._in_flight = False
            self._changed.notify_all()

    def _carry(self) -> None:
        assert self._sink is not None
        self._sink.open(self._hear)
        while True:
            rows = self._take()
            try:
                self._sink.send(b"".join(_line(row) for row in rows))
            except OSError:  # the agent is gone, and this rank will be in a moment
                self.dropped += len(rows)
            self._delivered()
            time.sleep(PAUSE_SECONDS)

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "stop" in message:
            word = message["stop"]
            self._stop = StopWord(str(word.get("reason", "")), word.get("deadline"))


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, separators=(",", ":"), default=_plain).encode() + b"\n"
    except (TypeError, ValueError):  # a strange key, a circle: only the fact remains
        kept = {"t": row["t"], "kind": "event", "rank": row["rank"], "name": "unwritable-row"}
        return json.dumps(kept).encode() + b"\n"


def _plain(value: Any) -> Any:
    """Turn a number of numpy or torch into Python's own; anything else into text."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return repr(value)


_current: Link | None = None
_current_lock = threading.Lock()


def connect(env: Mapping[str, str] = os.environ, cooperative: bool = True) -> Link:
    """Return this process's link; every caller shares one.

    Without an agent (`DTO_SOCKET` unset) rows go to `<DTO_RUN_DIR>/rank-<r>.jsonl`, or nowhere.
    """
    global _current
    with _current_lock:
        if _current is None or _current._pid != os.getpid():
            _current = Link(_sink(env), int(env.get("RANK", "0")), cooperative)
        elif cooperative:
            _current.cooperate()
        return _current


def _sink(env: Mapping[str, str]) -> Sink | None:
    if env.get("DTO_SOCKET"):
        return SocketSink(env["DTO_SOCKET"])
    if env.get("DTO_RUN_DIR"):
        return FileSink(Path(env["DTO_RUN_DIR"]) / f"rank-{env.get('RANK', '0')}.jsonl")
    return None


def log(values: Mapping[str, Any] | None = None, step: int | None = None, **more: Any) -> None:
    """Record metrics, as in `dto.log(loss=0.3, step=10)` or `dto.log({"loss": 0.3})`."""
    connect(cooperative=False).post("metric", step=step, values={**(values or {}), **more})
