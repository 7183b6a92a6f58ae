"""A rank that is killed in training ends the job with its own name, whatever the strategy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.launching import finish, make_run, result

pytestmark = pytest.mark.process
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
import torch
from torch import nn
from torch.utils.data import DataLoader
from dto import DistributedTrainer
from tests.ranks.matrix import Net, data, optimizer_for

class Fatal:
    def __call__(self, outputs, targets):
        if trainer.session.step == 3 and trainer.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(outputs, targets)

trainer = DistributedTrainer(strategy={strategy!r}, auto_scale_lr=False, verbose=False)
model = Net(torch.float32)
loader = DataLoader(data(torch.float32), batch_size=6)
trainer.fit(model, loader, optimizer_for("adamw", model), Fatal(), 3)
"""


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero3", "pipeline", "tensor", "ps"])
def test_the_killed_rank_is_the_culprit_and_the_others_are_victims(
    tmp_path: Path, strategy: str
) -> None:
    root = str(Path(__file__).parents[2])
    run = make_run(tmp_path, SCRIPT.format(root=root, strategy=strategy))
    done = finish(run, timeout=120)
    verdict = result(run)["verdict"]
    log = (run.path / "attempt-1/rank-0.g0.log").read_text()
    assert done.returncode == 137, log
    assert (verdict["rank"], verdict["kind"], verdict["victims"]) == (1, "signal", [0]), log
