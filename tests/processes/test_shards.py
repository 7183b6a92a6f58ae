"""Checkpoints of which each rank writes a part are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.pool import pool

pytestmark = [pytest.mark.process, pytest.mark.ranks]


def test_a_rank_that_cannot_write_fails_the_save_on_all_and_leaves_nothing(tmp_path: Path) -> None:
    found = pool("gloo").run("shards.fail_to_write_on_one", 3, run_dir=str(tmp_path))
    for said, left, files in found:
        assert said.startswith("step 4 could not be saved: File too large on rank 1")
        assert left == []
        ranks = [f"rank-{rank}.safetensors" for rank in range(3)]
        assert files == sorted(["manifest.json", *ranks])


def test_another_models_checkpoint_is_refused_on_every_rank(tmp_path: Path) -> None:
    found = pool("gloo").run("shards.go_on_with_another_model", 2, run_dir=str(tmp_path))
    assert found[0] == found[1]
    assert "load it with the model that it was saved from" in found[0]
