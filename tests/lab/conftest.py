"""Every test here runs on real hosts; what they leave is removed, also after a killed session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab, Labs, remove_orphans
from tests.lab.provisioned import joined, provisioned, unbroken

__all__ = ["joined", "provisioned", "unbroken"]
_HERE = Path(__file__).parent
_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The lab's own tests come first: "nothing stays" can be told only while no other lab is up.
    first = [_HERE / "test_the_lab.py", _HERE / "test_setup.py"]
    items.sort(key=lambda item: first.index(item.path) if item.path in first else len(first))
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker("lab")
            if item.path != first[0] and "provisioned" not in getattr(item, "fixturenames", ()):
                item.add_marker("own_lab")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.fixture(scope="session")
def labs() -> Labs:
    """`Lab.up` under names that no other session uses."""
    remove_orphans("test-")

    def up(label: str, *arguments: Any, **options: Any) -> AbstractContextManager[Lab]:
        return Lab.up(f"test-{label}-{os.getpid()}", *arguments, **options)

    return up


@pytest.fixture(scope="module")
def lab(labs: Labs) -> Iterator[Lab]:
    """Three bare hosts: head, node-1 and node-2. Leave them as bare as they were."""
    with labs("bare") as bare:
        yield bare
