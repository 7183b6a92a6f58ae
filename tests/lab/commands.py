"""Run the programs that a lab is made of, and wait, with a limit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping


class LabError(RuntimeError):
    """The lab itself did not work; never what is tested in it."""


_ENV = {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}


def run(
    *argv: str, check: bool = True, timeout: float = 60, text: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a command of this machine to its end."""
    done = subprocess.run(
        argv, env={**os.environ, **_ENV, **(env or {})}, text=True, errors="replace",
        capture_output=True, timeout=timeout, **({"input": text} if text is not None else
        {"stdin": subprocess.DEVNULL}),
    )  # fmt: skip
    if check and done.returncode != 0:
        raise LabError(
            f"{' '.join(argv)} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}"
        )
    return done


def wait_until(
    condition: Callable[[], bool], what: str, timeout: float, every: float = 0.1
) -> None:
    """Wait until the condition holds; LabError says for what we waited in vain."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s for {what}")
        time.sleep(every)
