"""What the coordinator writes down: the journal for programs, the progress line for people."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from dto.runs.files import Journal
from dto.runs.paths import Attempt
from dto.runs.processes import boot_id, process_started

log = logging.getLogger(__name__)

_TERMINAL_SECONDS = 0.2
_QUIET_SECONDS = 5.0
_QUIET_SHARE = 0.1


class Notes:
    """The one writer of an attempt's journal; also remembers the newest step and commit."""

    def __init__(self, attempt: Attempt, submission: int, job_id: str | None) -> None:
        self._journal = Journal(attempt.journal)
        self._has_failed = False
        self._begun = {
            "submission": submission,
            "job_id": job_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "boot_id": boot_id(),
            "started": process_started(os.getpid()),
        }
        self.last_step: int | None = None
        self.metric: Mapping[str, Any] = {}
        self.save_seconds: float | None = None

    def state(self, word: str, generation: int, world: int, nodes: Sequence[str]) -> None:
        place = {"generation": generation, "world": world, "nodes": list(nodes)}
        self.write("state", state=word, **place, **self._begun)

    def write(self, kind: str, **fields: Any) -> None:
        self._append([{"t": time.time(), "kind": kind, **fields}])

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take what an agent delivered."""
        for row in rows:
            step = row.get("step")
            if isinstance(step, int):
                self.last_step = max(step, self.last_step or 0)
            if row.get("kind") == "metric" and not row.get("rank") and isinstance(step, int):
                self.metric = row
            if row.get("kind") == "commit" and row.get("seconds") is not None:
                self.save_seconds = float(row["seconds"])
        self._append(rows)

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write if the disk lets us: a full one costs rows, never the training."""
        try:
            self._journal.append_many(rows)
        except OSError as error:
            if not self._has_failed:
                log.warning("rows are lost: the journal cannot be written: %s", error.strerror)
        else:
            self._has_failed = False
            return
        self._has_failed = True

    def close(self) -> None:
        try:
            self._journal.close()
        except OSError as error:
            log.warning("the journal may lack its end: %s", error.strerror)


class Progress:
    """One live line on a terminal; elsewhere a line now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._shown: Mapping[str, Any] = {}
        self._shown_at = 0.0
        self._began: tuple[float, int] | None = None

    def say(self, text: str) -> None:
        self._write(f"\r\x1b[Kdto: {text}\n" if self._is_terminal else f"dto: {text}\n")

    def show(self, metric: Mapping[str, Any]) -> None:
        """Show rank 0's newest metric, if it is news and its time has come."""
        if not metric or metric is self._shown:
            return
        now, step = time.monotonic(), int(metric["step"])
        if self._began is None or step < self._began[1]:
            self._began = (now, step)
        if not self._is_due(metric, now):
            return
        self._shown, self._shown_at = metric, now
        line = progress_line(metric, _seconds_left(self._began, now, metric))
        self._write(f"\r\x1b[K{line}" if self._is_terminal else f"{line}\n")

    def _is_due(self, metric: Mapping[str, Any], now: float) -> bool:
        if self._is_terminal:
            return now - self._shown_at >= _TERMINAL_SECONDS
        total = metric.get("total_steps") or 0
        gained = int(metric["step"]) - int(self._shown.get("step") or 0)
        is_last = bool(total) and int(metric["step"]) >= total
        much = bool(total) and gained >= _QUIET_SHARE * total and now - self._shown_at >= 1.0
        return is_last or much or now - self._shown_at >= _QUIET_SECONDS

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # nobody reads any more, or a full disk; training goes on
            return


def progress_line(metric: Mapping[str, Any], seconds_left: float | None) -> str:
    """Return `step 120/600  loss 0.123  2,345 samples/s  ETA 0:12`, as far as it is known."""
    total = metric.get("total_steps")
    parts = [f"step {metric['step']}" + (f"/{total}" if total else "")]
    values = metric.get("values") or {}
    for name, value in values.items():
        if isinstance(value, (int, float)) and name == "loss":
            parts.append(f"loss {value:.4g}")
        elif isinstance(value, (int, float)) and name == "samples_per_second":
            parts.append(f"{value:,.0f} samples/s")
    if seconds_left is not None:
        minutes, seconds = divmod(round(seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
        parts.append(f"ETA {clock}:{seconds:02}")
    return "  ".join(parts)


def _seconds_left(began: tuple[float, int], now: float, metric: Mapping[str, Any]) -> float | None:
    """Extrapolate from the steps made since this process first saw one."""
    total, step = metric.get("total_steps"), int(metric["step"])
    made, took = step - began[1], now - began[0]
    if not total or made <= 0 or took <= 0:
        return None
    return max(int(total) - step, 0) * took / made
