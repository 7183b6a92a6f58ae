"""A line for each stage of a playbook as it ends, with its seconds; for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

_LEAST_SECONDS = 0.5


class Progress:
    """Prints each stage (a role, or a play outside of roles) once it is over.

    On a terminal the stage that runs is shown too, with its task and seconds, and overwritten.
    """

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._is_live = out.isatty()
        self._began = clock()
        self._stage = ""
        self._stage_began = self._began
        self._play = ""
        self._task = ""
        self._changed = 0

    def take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "play":
            self._play = event["name"]
        elif kind == "task":
            self._enter(event["role"] or self._play)
            self._task = event["task"]
        elif kind == "changed":
            self._changed += 1
        elif kind == "end":
            self.close()
        self.tick()

    def stage(self, name: str) -> None:
        """Begin a stage that is no part of a playbook."""
        self._enter(name)
        self.tick()

    def tick(self) -> None:
        """Redraw the line of the stage that runs."""
        if self._is_live and self._stage:
            seconds = self._clock() - self._stage_began
            self._write(f"\r\033[K  {self._stage:24} {seconds:5.0f} s  {self._task}"[:100])

    def close(self) -> None:
        self._enter("")

    def seconds(self) -> float:
        return self._clock() - self._began

    def _enter(self, stage: str) -> None:
        if stage == self._stage:
            return
        if self._stage:
            start = "\r\033[K" if self._is_live else ""
            seconds = self._clock() - self._stage_began
            changes = f"  {self._changed} changed" if self._changed else ""
            is_worth_it = seconds >= _LEAST_SECONDS or self._changed
            line = f"  {self._stage:24} {seconds:5.0f} s{changes}\n" if is_worth_it else ""
            self._write(start + line)
        self._stage, self._stage_began = stage, self._clock()
        self._task, self._changed = "", 0

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
