"""Signals become a flag that is looked at between steps; an error's last words reach the agent."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback as tracebacks
from types import FrameType, TracebackType

from dto.errors import DtoError
from dto.telemetry import Link

_OWN_CODE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_received: list[str] = []
"""Names of the signals that this process got; shared by all its sessions."""


class StopFlag:
    """Says whether somebody wants this rank to save and leave."""

    def __init__(self, link: Link) -> None:
        self._link = link
        if threading.current_thread() is threading.main_thread():
            _install()

    @property
    def reason(self) -> str | None:
        """Why to stop, or None."""
        if _received:
            return _received[0]
        word = self._link.stop_requested
        return (word.reason or "asked to stop") if word is not None else None


def _install() -> None:
    # the agent starts ranks with SIGTERM ignored; a handler of the script's own is left alone
    if signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGTERM, _remember)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remember)


def _remember(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number).name)
    if number == signal.SIGINT:  # the second Ctrl-C interrupts at once, as always
        signal.signal(signal.SIGINT, signal.default_int_handler)


class LastWords:
    """Tells the agent what exception ended this rank, before Python prints it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.step = 0
        self.has_failed = False
        self._before = sys.excepthook
        sys.excepthook = self._report

    def _report(
        self,
        kind: type[BaseException],
        value: BaseException,
        traceback: TracebackType | None,
    ) -> None:
        self.has_failed = True
        self._link.post("error", type=kind.__name__, message=str(value), step=self.step)
        self._link.flush()
        self._before(kind, value, traceback)


def show_errors_in_one_line() -> None:
    """Let a DtoError that ends the script read as one line; all else keeps its traceback."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show


def _show(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(value, DtoError):
        sys.__excepthook__(kind, value, traceback)
        return
    frames = tracebacks.extract_tb(traceback)
    theirs = [frame for frame in frames if not frame.filename.startswith(_OWN_CODE)]
    where = (
        f" ({os.path.basename(theirs[-1].filename)}, line {theirs[-1].lineno})" if theirs else ""
    )
    print(f"dto: error: {value}{where}", file=sys.stderr)
