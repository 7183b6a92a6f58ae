"""Prints a run's log as it grows, until the run is over."""

from __future__ import annotations

import time

from dto.cli.output import echo_bytes, echo_json, echo_note
from dto.jobs.inspect import statuses
from dto.jobs.logs import Line, Reader, follow
from dto.jobs.schedulers.base import Scheduler
from dto.runs.paths import Run
from dto.runs.state import Status

_ASK_SECONDS = 3.0


def follow_to_end(
    run: Run, scheduler: Scheduler, as_json: bool, reader: Reader | None = None
) -> int:
    """Print a run's lines as they come; return the job's exit code. Ctrl-C only stops watching."""
    watch = Watch(run, scheduler)
    try:
        for line in follow(reader or Reader(run), watch.is_over):
            print_line(line, as_json)
    except KeyboardInterrupt:
        echo_note(f"the run goes on; watch it again with `dto logs -f {run.id}`")
        return 130
    status = watch.status()
    if not as_json:
        echo_note(f"run {run.id} is {status.state.value}: {status.text}".rstrip(": "))
    return exit_code(status)


def exit_code(status: Status) -> int:
    """Return the job's own code; a job that never got so far as to have one failed."""
    if status.exit_code is not None:
        return status.exit_code
    return 0 if status.state.value == "COMPLETED" else 1


class Watch:
    """Derives a run's status anew every few seconds; the scheduler is not asked more often."""

    def __init__(self, run: Run, scheduler: Scheduler) -> None:
        self._run = run
        self._scheduler = scheduler
        self._asked = 0.0
        self._is_over = False

    def status(self) -> Status:
        return statuses([self._run], self._scheduler)[0]

    def is_over(self) -> bool:
        if time.monotonic() - self._asked >= _ASK_SECONDS:
            self._asked = time.monotonic()
            self._is_over = not self.status().state.is_alive
        return self._is_over


def print_line(line: Line, as_json: bool) -> None:
    if as_json:
        text = line.text.decode("utf-8", "replace")
        place = {"attempt": line.attempt, "rank": line.rank, "generation": line.generation}
        echo_json({**place, "file": line.file, "line": text})
        return
    prefix = b"" if line.rank is None else b"[%d] " % line.rank
    echo_bytes(prefix + line.text + b"\n")


def print_all(reader: Reader, as_json: bool) -> None:
    for line in reader.poll(is_last=True):
        print_line(line, as_json)
