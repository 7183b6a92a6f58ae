"""Runs a program as if it had been typed: words live, Ctrl-C passed on once, its end awaited."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO

from dto.cluster.playbook import end_with_parent

_KEPT_BYTES = 1 << 16


@dataclass(frozen=True)
class Ended:
    """How a program ended; `said` is the end of its stderr."""

    code: int
    said: str
    was_interrupted: bool


class _Passing:
    """Hands the first Ctrl-C (or SIGTERM) on; a second would have Terraform drop its state."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.happened = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.happened:
            return
        self.happened = True
        if number == signal.SIGINT and _is_foreground():
            return  # the terminal has told the whole group
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                self.child.send_signal(signal.SIGINT)


def _is_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


@contextlib.contextmanager
def _passing() -> Iterator[_Passing]:
    handler = _Passing()
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield handler
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def run_live(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    quiet: bool = False,
    stdout: IO[str] | None = None,
) -> Ended:
    """Run a program on our own terminal; `quiet` keeps both of its streams off it."""
    parent = os.getpid()
    sys.stdout.flush()
    with _passing() as passing:
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL if quiet else None,
            stdout=subprocess.DEVNULL if quiet else stdout,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: end_with_parent(parent),
        )
        passing.child = child
        if passing.happened:  # it came between the two
            child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        with child.stderr:
            said = _copied(child.stderr, quiet)
        code = child.wait()
    return Ended(code, said.decode("utf-8", "replace"), passing.happened)


def _copied(source: IO[bytes], quiet: bool) -> bytes:
    """Show what comes as it comes, and return the end of it."""
    kept = b""
    while piece := os.read(source.fileno(), 65536):
        kept = (kept + piece)[-_KEPT_BYTES:]
        if not quiet:
            with contextlib.suppress(OSError):
                sys.stderr.buffer.write(piece)
                sys.stderr.buffer.flush()
    return kept
