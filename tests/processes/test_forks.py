"""A rank may fork whenever its loop runs: DataLoader workers start at every epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import PROGRAMS, dto


@pytest.mark.process
@pytest.mark.timeout(120)
def test_children_forked_after_collectives_come_to_life(tmp_path: Path) -> None:
    done = dto("run", "-n", "2", "--run-root", tmp_path, PROGRAMS / "forks.py")
    assert done.returncode == 0, done.stdout + done.stderr
