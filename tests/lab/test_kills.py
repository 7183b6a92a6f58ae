"""A setup killed at any moment: the next run completes it, the third finds nothing to do."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.lab import Labs

SEEDS = int(os.environ.get("DTO_LAB_KILLS", "1"))
LONGEST_SECONDS = 75.0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_killed_setup_is_completed_by_the_next(
    labs: Labs, tmp_path: Path, seed: int
) -> None:
    after = random.Random(seed).uniform(2.0, LONGEST_SECONDS)
    with labs(f"kill{seed}", ["head", "n1"], wheels=True) as lab:
        cluster = Cluster(lab, tmp_path, name="killed", head="head", workers=("n1",))
        setup = cluster.start_setup("--no-verify")
        time.sleep(after)
        cluster.kill_setup(setup)
        print(f"seed {seed}: killed after {after:.1f} s: {cluster.progress_of(setup)}")
        second = cluster.setup("--no-verify")
        assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
        third = cluster.setup("--no-verify")
        assert third.returncode == 0, third.stdout[-3000:] + third.stderr[-3000:]
        assert cluster.changes(third) == {"head": 0, "n1": 0}
        cluster.wait_idle("n1")
