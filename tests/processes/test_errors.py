"""What a user can cause ends a script with one line, not with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dto.checkpoint.store import Store
from tests.helpers import PROGRAMS, cannot, dto

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


def test_a_disk_that_fills_up_ends_in_one_line_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        cannot("needs root, to mount a small filesystem")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place]).returncode:
        cannot("this machine does not let root mount a tmpfs")
    try:  # one checkpoint takes 8 MB
        done = dto("run", "-n", "2", "--run-root", place, PROGRAMS / "steady.py",
                   tmp_path / "out", "--hidden", "800", "--epochs", "2")  # fmt: skip
        assert done.returncode == 1
        assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
        assert "Traceback" not in done.stdout and "terminate called" not in done.stdout
        [run_dir] = place.glob("*-steady-*")
        assert [commit.name for commit in Store(run_dir / "checkpoints").candidates()] == [
            "step-6.a1g0",
            "step-3.a1g0",
        ]
    finally:
        subprocess.run(["umount", place], check=True)
