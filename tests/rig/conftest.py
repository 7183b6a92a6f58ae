"""Every test here runs on one real Slurm, which lives as long as the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.rig import Rig, temporary_rig

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker("rig")


@pytest.fixture(scope="session")
def _living_rig() -> Iterator[Rig]:
    with temporary_rig() as rig:
        yield rig


@pytest.fixture
def rig(_living_rig: Rig) -> Iterator[Rig]:
    """The cluster, with an empty queue before and after."""
    yield _living_rig
    _living_rig.cancel_all()
