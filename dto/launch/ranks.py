"""One rank as its agent sees it: started, bound to CPUs, watched, ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Order:
    """What to start as one rank; `log` is None where the rank keeps the terminal."""

    rank: int
    local_rank: int
    env: Mapping[str, str]
    cpus: Sequence[int]
    log: Path | None


@dataclass(frozen=True)
class Exit:
    """Either a code or a signal."""

    code: int | None
    signal: int | None
    t: float


class Rank:
    """A running rank. It dies with its agent; SIGTERM, which SLURM sends to all, is ignored."""

    def __init__(
        self, order: Order, argv: Sequence[str], cwd: str, environment: Mapping[str, str]
    ) -> None:
        self.order = order
        self.killed = False
        self.log_start = 0
        self.has_terminal = order.log is None
        output, standard_input = None, None
        if order.log is not None:
            output = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self.log_start = os.fstat(output).st_size
            standard_input = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                argv,
                cwd=cwd,
                env={**environment, **order.env},
                stdin=standard_input,
                stdout=output,
                stderr=output,
                start_new_session=not self.has_terminal,
                preexec_fn=_prepare(order.cpus, os.getpid()),
            )
        finally:
            if output is not None:
                os.close(output)

    @property
    def pid(self) -> int:
        return self._process.pid

    def reap(self) -> Exit | None:
        """Return how it ended, if it has; what it left running in its session ends with it."""
        info = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if info is None:
            return None
        now = time.time()
        self._signal_group(signal.SIGKILL)  # before the pid is free for somebody else
        status = self._process.wait()
        return Exit(None, -status, now) if status < 0 else Exit(status, None, now)

    def kill(self) -> None:
        self.killed = True
        self._signal_group(signal.SIGKILL)

    def terminate(self) -> bool:
        """Send SIGTERM if the script has a handler for it; say whether it has."""
        if not catches(self.pid, signal.SIGTERM):
            return False
        os.kill(self.pid, signal.SIGTERM)
        return True

    def _signal_group(self, number: int) -> None:
        try:
            if self.has_terminal:  # its group is ours
                os.kill(self.pid, number)
            else:
                os.killpg(self.pid, number)
        except ProcessLookupError:  # ended in this moment
            return


def catches(pid: int, number: int) -> bool:
    """Tell from /proc whether a process has a handler of its own for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(masks) and bool(int(masks[0], 16) >> (number - 1) & 1)


def _prepare(cpus: Sequence[int], parent: int) -> Callable[[], None]:
    """Return what a child does between fork and exec."""

    def prepare() -> None:
        die_with_parent(parent)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if cpus:
            os.sched_setaffinity(0, cpus)

    return prepare


def die_with_parent(parent: int) -> None:
    """Have the kernel send us SIGKILL when `parent` ends, however it ends (prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
