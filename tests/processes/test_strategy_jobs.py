"""Whole jobs whose ranks share a model out: killed, stopped, and resumed by another strategy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dto.runs.paths import Run
from dto.runs.requests import post
from tests.processes.launching import (
    finish,
    has_stepped,
    journal,
    make_run,
    result,
    started,
    wait_until,
)

pytestmark = [pytest.mark.process, pytest.mark.ranks, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
from torch.utils.data import DataLoader
from dto import DistributedTrainer
from tests.ranks.matrix import Net, alone, data, optimizer_for

options, fatal_step, pace = json.loads(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])

def criterion(outputs, targets):
    time.sleep(pace)
    if trainer.session.step == fatal_step and trainer.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.functional.cross_entropy(outputs, targets)

trainer = DistributedTrainer(auto_scale_lr=False, verbose=False, global_batch_size=12, **options)
model = Net(torch.float64)
loader = DataLoader(data(torch.float64), batch_size=12, shuffle=False)
done = trainer.fit(model, loader, optimizer_for("adamw", model), criterion, 3)
if trainer.is_master():
    final = torch.load(done["final_model_path"], weights_only=True)["model_state_dict"]
    wanted = alone("adamw", torch.float64, 3, None, 113)
    print("distance", max(float((final[n] - wanted[n]).abs().max()) for n in wanted))
"""


def job(root: Path, options: dict[str, object], fatal_step: int, pace: float) -> Run:
    arguments = [str(ROOT), json.dumps(options), str(fatal_step), str(pace)]
    return make_run(root, SCRIPT, args=arguments)


@pytest.mark.parametrize("strategy", ["zero3", "pipeline", "tensor", "ps"])
def test_a_killed_rank_is_the_culprit_and_the_others_are_victims(
    tmp_path: Path, strategy: str
) -> None:
    run = job(tmp_path, {"strategy": strategy}, fatal_step=3, pace=0.0)
    done = finish(run, timeout=120)
    verdict = result(run)["verdict"]
    log = (run.path / "attempt-1/rank-0.g0.log").read_text()
    assert done.returncode == 137, log
    assert (verdict["rank"], verdict["kind"], verdict["victims"]) == (1, "signal", [0]), log


@pytest.mark.parametrize(
    ("options", "pace"),
    [({"strategy": "zero3"}, 0.16), ({"strategy": "pipeline", "micro_batches": 4}, 0.04)],
    ids=["zero3", "pipeline"],
)
def test_a_stopped_job_saves_its_parts_and_ends_like_one_process(
    tmp_path: Path, options: dict[str, object], pace: float
) -> None:
    run = job(tmp_path, options, fatal_step=-1, pace=pace)
    with started(run) as first:
        wait_until(has_stepped(run), 120)
        post(run, "stop")
        assert first.wait(60) == 85
    saved = result(run)["commit"]
    assert saved.startswith("step-") and len(list(run.path.glob("checkpoints/*/rank-*"))) == 2
    done = finish(run, timeout=120)
    assert done.returncode == 0, done.stderr
    assert any(row.get("name") == "resumed" for row in journal(run, "event"))
    log = (run.path / "attempt-2/rank-0.g0.log").read_text()
    assert float(log.rpartition("distance ")[2]) <= 1e-10
