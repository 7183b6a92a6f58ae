"""How long `dto --help` and `dto render` take beside `python -c pass` and `import submitit`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.report import Measure, difference, ratio, shuffled_blocks

_MILLISECONDS = 1000.0


def run(quick: bool) -> list[Measure]:
    python = sys.executable
    dto = str(Path(python).with_name("dto"))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text("print('hello')\n")
        cases = {
            "pass": _timed([python, "-c", "pass"], folder),
            "pass_again": _timed([python, "-c", "pass"], folder),
            "help": _timed([dto, "--help"], folder),
            "render": _timed([dto, "render", str(script)], folder),
            "submitit": _timed([python, "-c", "import submitit"], folder),
        }
        for case in cases.values():  # fill the page cache and __pycache__ before measuring
            case()
        seconds = shuffled_blocks(cases, blocks=9 if quick else 31)
    return [
        _over_pass("startup.help.over_pass", seconds["help"], seconds["pass"]),
        _over_pass("startup.render.over_pass", seconds["render"], seconds["pass"]),
        _over_pass("startup.submitit_import.over_pass", seconds["submitit"], seconds["pass"]),
        ratio("startup.help.over_submitit_import", seconds["help"], seconds["submitit"]),
        ratio("startup.render.over_submitit_import", seconds["render"], seconds["submitit"]),
        ratio("startup.pass.a_over_a", seconds["pass_again"], seconds["pass"]),
    ]


def _over_pass(name: str, ours: Sequence[float], bare: Sequence[float]) -> Measure:
    return difference(name, "ms", ours, bare, scale=_MILLISECONDS)


def _timed(command: Sequence[str], folder: str) -> Callable[[], float]:
    """A command's wall seconds; it must succeed, and finds no settings of the user."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": folder}

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(
            command, cwd=folder, env=env, check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        return time.perf_counter() - began

    return once
