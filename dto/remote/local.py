"""This machine, as a host."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import BinaryIO

from dto.remote.errors import TimedOut
from dto.remote.host import KILL_AFTER_SECONDS, Host, brief, checked, was_cut, with_deadline

_CHUNK = 1 << 16


class LocalHost(Host):
    """Commands run here, each in a session of its own, so that all of it can be ended."""

    def __init__(self, name: str = "here") -> None:
        self.name = name

    def close(self) -> None:
        """There is nothing to let go of."""

    def pipe(
        self,
        argv: Sequence[str],
        source: BinaryIO | None,
        sink: BinaryIO,
        *,
        timeout: float,
        sudo: bool = False,
    ) -> tuple[int, bytes]:
        words = checked(argv, timeout)
        if sudo and os.geteuid() != 0:  # what runs as root cannot be ended from here
            words = with_deadline(words, timeout, sudo=True)
        try:
            process = _start(words, source)
        except OSError as error:
            code = 127 if error.errno == errno.ENOENT else 126
            return code, f"{words[0]}: {error.strerror}\n".encode("utf-8", "surrogateescape")
        deadline = time.monotonic() + timeout
        with process:
            try:
                err = _converse(process, source, sink, deadline)
            except subprocess.TimeoutExpired:
                _end(process, KILL_AFTER_SECONDS)
                raise TimedOut(self.name, brief(argv), timeout) from None
            except BaseException:
                _end(process, 0)
                raise
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        if sudo and was_cut(code, deadline):
            raise TimedOut(self.name, brief(argv), timeout)
        return code, err


def _start(words: list[str], source: BinaryIO | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        bufsize=0,
        stdin=subprocess.DEVNULL if source is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _converse(
    process: subprocess.Popen[bytes], source: BinaryIO | None, sink: BinaryIO, deadline: float
) -> bytes:
    """Move what goes in and what comes out together, so that neither waits for the other."""
    assert process.stdout is not None and process.stderr is not None
    err: list[bytes] = []
    ends = (process.stdin, process.stdout, process.stderr)
    pipes = {pipe.fileno(): pipe for pipe in ends if pipe is not None}
    with selectors.DefaultSelector() as streams:
        streams.register(process.stdout, selectors.EVENT_READ, partial(_take, sink.write))
        streams.register(process.stderr, selectors.EVENT_READ, partial(_take, err.append))
        if process.stdin is not None and source is not None:
            os.set_blocking(process.stdin.fileno(), False)
            streams.register(process.stdin, selectors.EVENT_WRITE, _Feed(source).step)
        while streams.get_map():
            for key, _ in streams.select(_remaining(process, deadline)):
                if not key.data(key.fd):
                    streams.unregister(key.fileobj)
                    pipes[key.fd].close()
    process.wait(_remaining(process, deadline))
    return b"".join(err)


def _take(sink: Callable[[bytes], object], fd: int) -> bool:
    data = os.read(fd, _CHUNK)
    if data:
        sink(data)
    return bool(data)


class _Feed:
    """What a command still has to be given on its stdin."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._waiting = b""

    def step(self, fd: int) -> bool:
        """Give it some; False once there is no more, or it wants no more."""
        self._waiting = self._waiting or self._source.read(_CHUNK)
        if not self._waiting:
            return False
        try:
            self._waiting = self._waiting[os.write(fd, self._waiting) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return False
        return True


def _remaining(process: subprocess.Popen[bytes], deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise subprocess.TimeoutExpired(process.args, 0)
    return seconds


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """End all that the command started: first asked to, then not asked."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 1.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except PermissionError:  # it runs as root, under a deadline of its own
            process.wait(KILL_AFTER_SECONDS + 2)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
