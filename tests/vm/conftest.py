"""Every test here runs on the same two guests, which boot once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.lab import remove_orphans
from tests.vm.guest import VmLab
from tests.vm.prepared import GPUS, prepare

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker("vm")
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head that serves NFS and a node n1 with two fake GPUs; SLURM runs."""
    remove_orphans("test-")
    with VmLab.up(f"test-vm-{os.getpid()}", ["head", "n1"], gpus=GPUS) as lab:
        assert isinstance(lab, VmLab)
        cluster = prepare(lab, tmp_path_factory.mktemp("vm"))
        cluster.wait_idle("n1")
        yield cluster
