"""The agent's end of the ranks' unix socket: their rows come in, the stop word goes out."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from dto.telemetry.sinks import socket_address

_ROW_LIMIT = 1 << 20
ROWS_KEPT = 100_000
"""Rows kept while the coordinator does not take them; the oldest go first."""


class RankLinks:
    """Collects what ranks post, until the agent takes it for the coordinator."""

    def __init__(self, on_hello: Callable[[int, bool], None]) -> None:
        self.name = f"@dto-{os.getpid()}-{secrets.token_hex(8)}"
        self._on_hello = on_hello
        self._rows: deque[dict[str, Any]] = deque(maxlen=ROWS_KEPT)
        self._writers: dict[asyncio.StreamWriter, int] = {}
        self._stop: dict[str, Any] | None = None
        self._server: asyncio.AbstractServer | None = None
        self.errors: dict[int, dict[str, Any]] = {}
        self.last_steps: dict[int, int] = {}

    async def open(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(socket_address(self.name))
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=_ROW_LIMIT, backlog=1024
        )

    def begin_generation(self) -> None:
        self._stop = None
        self.errors.clear()
        self.last_steps.clear()

    def take(self, most: int) -> list[dict[str, Any]]:
        return [self._rows.popleft() for _ in range(min(most, len(self._rows)))]

    def stop(self, reason: str, deadline: float | None) -> None:
        """Give the stop word to every rank that is connected, and to those that come later."""
        self._stop = {"stop": {"reason": reason, "deadline": deadline}}
        for writer in self._writers:
            self._send_stop(writer)

    async def drained(self, rank: int, timeout: float) -> None:
        """Wait until an ended rank's last rows are in (its connection is at its end)."""
        for _ in range(int(timeout / 0.02)):
            if rank not in self._writers.values():
                return
            await asyncio.sleep(0.02)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _is_same_user(writer):
            writer.close()
            return
        try:
            while line := await reader.readline():
                self._accept(line, writer)
        except (OSError, ValueError):  # reset, or a row over the limit: this rank goes unheard
            pass
        finally:
            self._writers.pop(writer, None)
            writer.close()

    def _accept(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            row = json.loads(line)
            rank, kind = int(row["rank"]), str(row["kind"])
            float(row["t"])
        except (ValueError, KeyError, TypeError):  # not a row of ours: anybody may open a socket
            return
        if kind == "hello":
            self._writers[writer] = rank
            self._on_hello(rank, bool(row.get("cooperative")))
            if self._stop is not None:
                self._send_stop(writer)
            return
        if kind == "error":
            self.errors.setdefault(rank, row)
        if isinstance(row.get("step"), int):
            self.last_steps[rank] = row["step"]
        self._rows.append(row)

    def _send_stop(self, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(self._stop).encode() + b"\n")


def _is_same_user(writer: asyncio.StreamWriter) -> bool:
    """Abstract sockets have no file mode; the kernel knows who calls (unix(7), SO_PEERCRED)."""
    connection = writer.get_extra_info("socket")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return bool(uid == os.geteuid())
