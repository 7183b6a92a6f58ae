"""The first example ends alike on one worker and on two, whatever carries the gradients."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import EXAMPLES, dto

pytestmark = [pytest.mark.process, pytest.mark.timeout(150)]
LOSS = re.compile(r"final train loss (\d+\.\d+)")
ACCURACY = re.compile(r"accuracy (0\.\d+|1\.0+) on")


@cache
def _one_worker(root: Path) -> tuple[float, float]:
    return _train(root, "-n", "1")


def _train(root: Path, *options: str) -> tuple[float, float]:
    done = dto("run", "--run-root", root, *options, EXAMPLES / "simple_net.py")
    assert done.returncode == 0, done.stderr
    loss, accuracy = LOSS.search(done.stdout), ACCURACY.search(done.stdout)
    assert loss is not None and accuracy is not None, done.stdout
    return float(loss[1]), float(accuracy[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("backend", ["gloo", pytest.param("horovod", marks=pytest.mark.horovod)])
def test_two_workers_end_with_the_loss_of_one(backend: str, root: Path) -> None:
    loss, accuracy = _train(root, "-n", "2", "--backend", backend)
    expected, _ = _one_worker(root)
    assert abs(loss - expected) <= 1e-4 * expected
    assert accuracy >= 0.95
