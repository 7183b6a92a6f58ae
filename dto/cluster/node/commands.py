"""Run a program of the host with a limit; what goes wrong is in the answer, never raised."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Ran:
    """How a program ended: 127 it is not there, 124 it took too long."""

    code: int
    out: str = ""
    error: str = ""

    @property
    def said(self) -> str:
        """What it said, as one line; its complaint before its output."""
        text = self.error.strip() or self.out.strip() or f"exit code {self.code}"
        return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def run(
    *argv: str, timeout: float = 20, stdin: str = "", env: Mapping[str, str] | None = None
) -> Ran:
    # A program stuck on a dead filesystem cannot be killed: leave it behind, do not wait for it.
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **_ENV, **(env or {})},
            start_new_session=True,
        )
    except OSError as error:
        return Ran(127, error=f"{argv[0]}: {error.strerror}")
    try:
        out, err = child.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        return Ran(124, error=f"{argv[0]} did not end within {timeout:g} s")
    return Ran(child.returncode, out, err)
