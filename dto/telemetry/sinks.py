"""Where a link's rows go: to the agent's socket, or to a file where there is no agent."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class Sink(Protocol):
    """Used by one thread. `send` may raise OSError; whatever was sent is then lost."""

    def open(self, hear: Callable[[Mapping[str, Any]], None]) -> None:
        """Connect, if that can be done now; `hear` gets every message that comes back."""

    def send(self, lines: bytes) -> None:
        """Hand over whole lines."""


def socket_address(name: str) -> str:
    """Turn `@name` into Linux's abstract namespace: such a socket leaves no file behind."""
    return f"\0{name[1:]}" if name.startswith("@") else name


class SocketSink:
    """The agent's unix socket; a second thread listens for the stop word."""

    def __init__(self, name: str) -> None:
        self._address = socket_address(name)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def open(self, hear: Callable[[Mapping[str, Any]], None]) -> None:
        try:
            self._socket.connect(self._address)
        except OSError:  # no agent there any more: `send` will say so to the link
            return
        threading.Thread(target=self._listen, args=(hear,), name="dto-stop", daemon=True).start()

    def send(self, lines: bytes) -> None:
        self._socket.sendall(lines)

    def _listen(self, hear: Callable[[Mapping[str, Any]], None]) -> None:
        try:
            for line in self._socket.makefile("rb"):
                hear(json.loads(line))
        except (OSError, ValueError):  # the agent died: the kernel ends this rank with it
            return


class FileSink:
    """A rank that no agent started writes its own file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def open(self, hear: Callable[[Mapping[str, Any]], None]) -> None:
        del hear  # a file never answers
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:  # unwritable: `send` reports it with every row
            return

    def send(self, lines: bytes) -> None:
        if self._file is None:
            raise FileNotFoundError(str(self._path))
        os.write(self._file, lines)
