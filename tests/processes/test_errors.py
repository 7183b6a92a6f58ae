"""What a user can cause ends a script with one line, not with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]
WHOLE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}


def run_script(folder: Path, text: str, **env: str) -> subprocess.CompletedProcess[str]:
    script = folder / "train.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, script], env={**os.environ, **env}, text=True, capture_output=True,
        timeout=50,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"WORLD_SIZE": "2"}, "half set: WORLD_SIZE without RANK"),
        ({"RANK": "0"}, "half set: RANK without WORLD_SIZE"),
        ({**WHOLE, "RANK": "one"}, "RANK='one' is not a whole number"),
    ],
)
def test_a_half_set_environment_is_one_line(
    tmp_path: Path, env: dict[str, str], words: str
) -> None:
    done = run_script(tmp_path, "import dto\ndto.DistributedTrainer()\n", **env)
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert words in line and line.endswith("(train.py, line 2)")


def test_an_error_that_is_not_ours_keeps_its_traceback(tmp_path: Path) -> None:
    done = run_script(tmp_path, "import dto\ndto.DistributedTrainer(verbose=False)\n1 / 0\n")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
