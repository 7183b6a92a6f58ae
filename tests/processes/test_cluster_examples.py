"""The two examples that one runs first on a new cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers import EXAMPLES, dto


def test_every_rank_says_where_it_is_and_the_sum_is_right(tmp_path: Path) -> None:
    done = dto("run", "-n", "2", EXAMPLES / "cluster_test.py", "--megabytes", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert f"rank {rank} of 2, local rank {rank}: " in done.stdout
    assert "GB/s bus" in done.stdout and "all-reduce over 2 ranks: right" in done.stdout


def test_the_environment_is_told_and_complete() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "test_environment.py"], text=True, capture_output=True,
        timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert torch.__version__ in done.stdout and "backend gloo         yes" in done.stdout
