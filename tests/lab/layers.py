"""Environments that a setup built in one lab, lent to labs whose tests are about something else.

Unpacking torch takes a minute of the machine each time; what is lent are links to the same files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.lab import image
from tests.lab.commands import run
from tests.lab.lab import Lab

_STAMP = ".complete"


def keep(lab: Lab) -> None:
    """Keep the layers of torch and Horovod that were built here, and none of other wheels."""
    shelf = _shelf(lab)
    built = {path.name: path for path in _layers(lab).iterdir() if (path / _STAMP).exists()}
    for old in image.CACHE.glob("lab-wheels-*-layers/*"):
        if old.parent != shelf or old.name not in built:
            shutil.rmtree(old, ignore_errors=True)
    shelf.mkdir(parents=True, exist_ok=True)
    for name, path in built.items():
        if not (shelf / name).exists():
            _link(path, shelf / name)


def lend(lab: Lab) -> None:
    """Put what was kept, if anything, where the setup would build it."""
    shelf = _shelf(lab)
    if not shelf.is_dir():
        return
    _layers(lab).mkdir(parents=True)
    for path in shelf.glob("[!.]*"):
        if (path / _STAMP).exists():
            _link(path, _layers(lab) / path.name)


def _shelf(lab: Lab) -> Path:
    return image.CACHE / f"{lab.wheels.name}-layers" if lab.wheels else Path("/nonexistent")


def _layers(lab: Lab) -> Path:
    return lab.shared / "dto/layers"


def _link(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    run("cp", "-al", str(source), str(partial), timeout=120)
    partial.rename(target)
