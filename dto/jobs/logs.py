"""Reads what ranks printed, all attempts' or one rank's, and follows it until the run is over."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dto.runs.paths import Run

_RANK_LOG = re.compile(r"rank-(\d+)\.g(\d+)\.log")
_POLL_SECONDS = 0.3
_LAST_ROUND_SECONDS = 1.0


@dataclass(frozen=True)
class Line:
    """One line of a log. `rank` is None for what the job's own shell and coordinator said."""

    text: bytes
    attempt: int
    rank: int | None = None
    generation: int | None = None
    file: str = ""


@dataclass
class Reader:
    """Remembers how far each log has been read; finds new attempts and generations as they come."""

    run: Run
    rank: int | None = None
    attempt: int | None = None
    _offsets: dict[Path, int] = field(default_factory=dict)

    def poll(self, is_last: bool = False) -> Iterator[Line]:
        """Yield the lines that are new. Half a line waits, unless this poll is the last."""
        for path, attempt, rank, generation in self._files():
            for text in self._new_lines(path, is_last):
                yield Line(text, attempt, rank, generation, path.name)

    def has_files(self) -> bool:
        return bool(self._files())

    def _files(self) -> list[tuple[Path, int, int | None, int | None]]:
        newest = max(self.run.attempts(), default=0)
        numbers = [self.attempt] if self.attempt is not None else self.run.attempts()
        found: list[tuple[Path, int, int | None, int | None]] = []
        for number in numbers:
            for path in self.run.attempt(number).path.glob("rank-*.log"):
                match = _RANK_LOG.fullmatch(path.name)
                if match and self.rank in (None, int(match[1])):
                    found.append((path, number, int(match[1]), int(match[2])))
        found.sort(key=lambda item: (item[1], item[3], item[2]))
        if self.rank is None and self.attempt is None and not found:
            found += [(path, newest, None, None) for path in sorted(self.run.path.glob("slurm-*"))]
        return found

    def _new_lines(self, path: Path, is_last: bool) -> list[bytes]:
        offset = self._offsets.get(path, 0)
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = len(data) if is_last else data.rfind(b"\n") + 1
        self._offsets[path] = offset + end
        return data[:end].splitlines()


def follow(reader: Reader, is_over: Callable[[], bool]) -> Iterator[Line]:
    """Yield lines as they come until the run is over and its logs are drained."""
    while not is_over():
        yield from reader.poll()
        time.sleep(_POLL_SECONDS)
    deadline = time.monotonic() + _LAST_ROUND_SECONDS  # what other nodes wrote may still arrive
    while time.monotonic() < deadline:
        yield from reader.poll()
        time.sleep(_POLL_SECONDS)
    yield from reader.poll(is_last=True)
