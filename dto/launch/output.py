"""The ranks' logs on the console: tailed from their files, each line under its rank's number."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

MOST_RANKS = 64
"""Above this many ranks only rank 0 speaks on the console; the rest is in the logs."""
_LONGEST_LINE = 64 * 1024
_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)


class LogTail:
    """Follows one rank's log and splits it into lines."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._offset = start
        self._partial = b""

    def poll(self, is_last: bool = False) -> list[bytes]:
        """Return the lines that are complete now; with `is_last`, the incomplete one too."""
        try:
            if os.stat(self._path).st_size > self._offset:
                with open(self._path, "rb") as file:
                    file.seek(self._offset)
                    data = file.read()
                self._offset += len(data)
                self._partial += data
        except FileNotFoundError:
            return []
        *lines, self._partial = self._partial.split(b"\n")
        if self._partial and (is_last or len(self._partial) > _LONGEST_LINE):
            lines.append(self._partial)
            self._partial = b""
        # A progress bar redraws itself after \r: its last picture is the line.
        return [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines]


class Console:
    """Writes lines under their rank's number; falls silent when they find no place any more."""

    def __init__(self, stream: BinaryIO, is_terminal: bool) -> None:
        self._stream = stream
        self._is_terminal = is_terminal
        self._is_open = True

    def write(self, rank: int, lines: list[bytes]) -> None:
        if not (lines and self._is_open):
            return
        prefix = self._prefix(rank)
        try:
            self._stream.write(b"".join(prefix + line + b"\n" for line in lines))
            self._stream.flush()
        except OSError:  # `dto run ... | head`, or onto a full disk: training goes on
            self._is_open = False

    def _prefix(self, rank: int) -> bytes:
        if not self._is_terminal:
            return b"[%d] " % rank
        colour = _COLOURS[rank % len(_COLOURS)]  # first wipe the progress line, if one stands there
        return b"\r\x1b[K\x1b[%dm[%d]\x1b[0m " % (colour, rank)
