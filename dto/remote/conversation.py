"""One command over an ssh channel: what goes in, what comes out, and how it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import paramiko

from dto.remote.host import KILL_AFTER_SECONDS
from dto.remote.wire import Deadline

_CHUNK = 1 << 16
_CONFIRM_SECONDS = KILL_AFTER_SECONDS + 3

# What a channel raises when it, or all of the connection, is gone.
BROKEN = (OSError, EOFError, paramiko.SSHException)


class Overdue(Exception):
    """The command did not end in time."""

    def __init__(self, is_ended: bool) -> None:
        super().__init__()
        self.is_ended = is_ended  # as far as the host has said


class Broken(Exception):
    """The channel ended, and how the command ended was not said."""


def converse(
    channel: paramiko.Channel,
    line: bytes,
    source: BinaryIO | None,
    sink: BinaryIO,
    deadline: Deadline,
) -> tuple[int, bytes]:
    """Run a command line; its exit code and what it said on stderr. Overdue or Broken if not.

    The three streams share one channel, so each is moved by a thread of its own: one that is not
    read holds up the others.
    """
    err: list[bytes] = []
    troubles: list[OSError] = []
    _start(channel, line, deadline)
    helpers = [threading.Thread(target=_read_err, args=(channel, err, deadline), daemon=True)]
    if source is not None:
        feeding = (channel, source, deadline, troubles)
        helpers.append(threading.Thread(target=_feed, args=feeding, daemon=True))
    else:
        _end_input(channel)
    for helper in helpers:
        helper.start()
    try:
        _drain(channel.recv, channel, sink.write, deadline)
        helpers[0].join(deadline.left())
        if not channel.status_event.wait(deadline.left()) or helpers[0].is_alive():
            raise TimeoutError
    except TimeoutError:
        is_told = channel.status_event.wait(_CONFIRM_SECONDS)
        raise Overdue(is_told and channel.exit_status != -1) from None
    finally:
        channel.close()
        for helper in helpers:
            helper.join(_CONFIRM_SECONDS)
    if troubles:
        raise troubles[0]
    if channel.exit_status == -1:
        raise Broken
    return channel.exit_status, b"".join(err)


def _start(channel: paramiko.Channel, line: bytes, deadline: Deadline) -> None:
    with _closed_at(deadline, channel):
        try:
            channel.exec_command(line)  # bytes go out as they are
        except BROKEN:
            if deadline.is_past:
                raise Overdue(is_ended=False) from None
            raise Broken from None


@contextmanager
def _closed_at(deadline: Deadline, channel: paramiko.Channel) -> Iterator[None]:
    """Let a wait that has no timeout end with the deadline."""
    timer = threading.Timer(deadline.left(), channel.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _drain(
    receive: Callable[[int], bytes],
    channel: paramiko.Channel,
    take: Callable[[bytes], object],
    deadline: Deadline,
) -> None:
    while True:
        channel.settimeout(deadline.left())
        data = receive(_CHUNK)
        if not data:
            return
        if deadline.is_past:
            raise TimeoutError
        take(data)


def _read_err(channel: paramiko.Channel, err: list[bytes], deadline: Deadline) -> None:
    try:
        _drain(channel.recv_stderr, channel, err.append, deadline)
    except TimeoutError:
        return  # who reads stdout sees it, too


def _feed(
    channel: paramiko.Channel, source: BinaryIO, deadline: Deadline, troubles: list[OSError]
) -> None:
    while True:
        try:
            data = source.read(_CHUNK)
        except OSError as error:
            troubles.append(error)
            channel.close()
            return
        if not data:
            return _end_input(channel)
        try:
            channel.settimeout(deadline.left())
            channel.sendall(data)
        except BROKEN:
            return  # it has ended, or reads no further: its exit code says which


def _end_input(channel: paramiko.Channel) -> None:
    try:
        channel.shutdown_write()
    except BROKEN:
        return
