"""Files that many machines read while one writes: whole or absent, and append-only journals."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write beside `path`, fsync, rename: a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    try:
        with open(partial, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make a rename or a new name in `path` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file, or None where it does not exist (yet) or holds no object."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


class Journal:
    """An append-only JSON-lines file with one writer, made durable every `fsync_seconds`.

    A crash loses at most that much; a torn last line is dropped by readers, and whoever writes
    after it, in a new process or after a full disk, starts on a fresh line.
    """

    def __init__(self, path: Path, fsync_seconds: float = 2.0) -> None:
        self._file = open(path, "ab", buffering=0)
        self._fsync_seconds = fsync_seconds
        self._synced = time.monotonic()
        self._is_torn = self._file.tell() > 0 and not _ends_with_newline(path)

    def append(self, row: Mapping[str, Any]) -> None:
        self.append_many([row])

    def append_many(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append whole lines, or raise OSError; a line that was cut off then stands alone."""
        lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        if lines:
            self._write(("\n" + lines if self._is_torn else lines).encode())
        if time.monotonic() - self._synced >= self._fsync_seconds:
            self.sync()

    def _write(self, data: bytes) -> None:
        self._is_torn = True  # until the last byte is in
        while data:
            data = data[self._file.write(data) :]
        self._is_torn = False

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


class Tail:
    """Reads what a journal has gained since the last poll.

    The file is opened anew each time: on NFS and EFS only open() asks the server for news
    (close-to-open consistency, nfs(5)).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def poll(self) -> list[dict[str, Any]]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [row for line in whole.splitlines() if (row := _parse(line)) is not None]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return every whole row of a journal; an absent journal has none."""
    return Tail(path).poll()


def read_gist(path: Path, kind: str, last: int = 400) -> list[dict[str, Any]]:
    """Return the rows of one kind and the last ones: a day's journal in milliseconds."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
    except (FileNotFoundError, NotADirectoryError):
        return []
    mark = f'"kind":"{kind}"'.encode()
    wanted = [line for line in lines[:-last] if mark in line] + lines[-last:]
    return [row for line in wanted if (row := _parse(line)) is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # a line that a crash tore, then healed by a newline
        return None
    return row if isinstance(row, dict) else None
