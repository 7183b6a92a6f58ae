"""Bad input to a trainer on several ranks is one line on all of them, before anything is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.processes.pool import pool

pytestmark = [pytest.mark.process, pytest.mark.ranks]


@pytest.mark.parametrize(
    ("world", "options", "words", "steps"),
    [
        (2, {"strategy": "pipeline", "micro_batches": 6}, "smallest batch has 5 samples, 5 for", 0),
        (3, {"strategy": "pipeline", "schedule": "interleaved"}, "6 stages for 5 layers", 0),
        (4, {"mesh": {"dp": 2, "tp": 4}}, "is for 8 ranks and the job has 4", 0),
        (2, {"strategy": "zero3", "mesh": {"pp": 2}}, "legal are ddp and zero1 with pp and tp", 0),
        (2, {"strategy": "zero1", "backend": "torch"}, "backend torch has stages 2 and 3", 0),
        (2, {"strategy": "zero3"}, "zero3 has spread this model: keep its first optimizer", 10),
    ],
)
def test_what_cannot_be_is_refused_on_every_rank(
    tmp_path: Path, world: int, options: dict[str, Any], words: str, steps: int
) -> None:
    found = pool("gloo").run("refusals.fit", world, run_dir=str(tmp_path), **options)
    assert [taken for _, taken in found] == [steps] * world
    assert all(words in said and "\n" not in said for said, _ in found), found


@pytest.mark.horovod
def test_horovod_has_no_groups_for_a_mesh(tmp_path: Path) -> None:
    for options in ({"strategy": "pipeline", "micro_batches": 4}, {"mesh": {"tp": 1, "pp": 2}}):
        for said, steps in pool("horovod", 2).run(
            "refusals.fit", 2, run_dir=str(tmp_path), **options
        ):
            assert "use gloo" in said or "use --backend gloo" in said
            assert steps == 0
