"""The operator's side of a lab: a home of its own, and our scripts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.helpers import REPOSITORY
from tests.lab import image
from tests.lab.commands import LabError, wait_until

SETUP = REPOSITORY / "scripts/cluster-setup.sh"
_KEPT = ("PATH", "PYTHONPATH", "LANG", "PIP_", "SSL_CERT", "REQUESTS_CA", "HTTP_PROXY",
         "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")  # fmt: skip


class Operator:
    """Somebody who types commands on this machine, with a home that only the tests know."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)

    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
        # The environment that cluster-setup.sh makes for itself is the same for every home.
        shared = {"XDG_DATA_HOME": str(image.CACHE / "operator"), "LC_ALL": "C.UTF-8"}
        return {**kept, **shared, "HOME": str(self.home), "TERM": "dumb"}

    def run(
        self, *argv: str, timeout: float, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; who outlives the limit is killed with all it started."""
        with subprocess.Popen(
            argv, env={**self.env(), **(env or {})}, cwd=self.home, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                out, error = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                kill_tree(process.pid)
                out, error = process.communicate(timeout=30)
                raise LabError(
                    f"{' '.join(argv)} took more than {timeout:g} s: {out[-2000:]}{error[-2000:]}"
                ) from None
        return subprocess.CompletedProcess(argv, process.returncode, out, error)

    def start(self, *argv: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                argv, env=self.env(), cwd=self.home, stdin=subprocess.DEVNULL, stdout=file,
                stderr=file, start_new_session=True,
            )  # fmt: skip

    def dto(self, *args: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dto.cli", *args, timeout=timeout)


def kill_tree(pid: int) -> None:
    """SIGKILL a process and everything below it, as when the operator's machine loses power."""
    family = _family(pid)
    for one in family:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until(
        lambda: all(_has_ended(one) for one in family), f"the processes of {pid} to die", timeout=30
    )


def _family(pid: int) -> list[int]:
    below: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below += [int(child) for child in tasks.read_text().split()]
        except OSError:
            continue
    return [pid, *(one for child in below for one in _family(child))]


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def changes(text: str, hosts: list[str]) -> dict[str, int]:
    """What a setup's summary says that it changed, host by host."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        counted = re.search(r"\bchanged=(\d+)", line)
        if counted and words[0] in hosts:
            found[words[0]] = int(counted[1])
    return found
