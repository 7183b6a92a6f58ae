"""Ends what ranks forked when their agent is killed; runs alone, by path, in milliseconds.

The kernel ends a rank with its agent (PDEATHSIG), but not the processes that the rank started:
data loaders, servers, shells. The guardian outlives the agent by the moment that ending them takes.
It reads lines from a pipe that only the agent writes: `+PID` for a rank that leads a session of its
own, `-PID` once the agent has ended and reaped it. The end of the file is the end of the agent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


class Guardian:
    """The agent's end of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C, or a kill of the group, is not for it
        )

    def watch(self, pid: int) -> None:
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """Let it end; there is nothing left to watch."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), line.encode())
        except OSError:  # somebody killed it: ranks still end with their agent
            pass


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        (watched.add if line[0] == "+" else watched.discard)(pid)
    for pid in watched:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    main()
