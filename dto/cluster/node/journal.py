"""The guard's journal on the shared folder, which only root reads; and its words to people."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from dto.cluster.node.facts import Node
from dto.cluster.node.ledger import Ledger, Row, read_ledger

_log = logging.getLogger("dto.guard")
_MESSAGE = Path("/run/motd.d/dto-budget")


class Journal:
    """Rows that are only ever added, and the ledger that they come to. One process writes."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.ledger: Ledger = read_ledger(self.rows(path))
        self.seen_at = max((a.last_seen for a in self.ledger.accounts.values()), default=0.0)

    @staticmethod
    def rows(path: Path) -> Iterator[Row]:
        """Yield what was written; a line that a crash cut off is left out."""
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "event" in row and "t" in row:
                yield row

    def add(self, row: Row) -> None:
        """Count a row and write it; one that cannot be written counts all the same."""
        with self._lock:
            self._add(row)

    def _add(self, row: Row) -> None:
        self.ledger.take(row)
        try:
            self._append(json.dumps(row).encode())
        except OSError as error:
            _log.error("%s cannot be written: %s", self._path, error.strerror)

    def see(self, now: float, names: list[str], is_written: bool) -> None:
        """Note who is on; only now and then on disk."""
        row: Row = {"t": round(now, 3), "event": "seen", "nodes": names}
        if is_written:
            self.seen_at = now
            self.add(row)
        else:
            self.ledger.take(row)

    def _append(self, line: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            end = os.fstat(file).st_size
            # A line that a crash cut off must not swallow this one.
            is_cut = end > 0 and os.pread(file, 1, end - 1) != b"\n"
            os.write(file, (b"\n" if is_cut else b"") + line + b"\n")
            os.fsync(file)
        finally:
            os.close(file)


def warn_people(node: Node, words: str) -> None:
    """Leave a word where people log in, and on the shared folder; an empty one takes it back."""
    for path in (_MESSAGE, Path(node.shared) / "dto/notices/budget"):
        try:
            if words:
                path.parent.mkdir(mode=0o755, exist_ok=True)
                partial = path.with_name(f".{path.name}.partial")
                partial.write_text(words + "\n")
                partial.chmod(0o644)
                os.replace(partial, path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be written: %s", path, error.strerror)
