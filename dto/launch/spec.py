"""The part of a submission's spec.json that launching needs, and the command line it means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dto.errors import DtoError
from dto.runs.files import read_json

VERSION = 1

# Puts the code copy where `python -m` would put the current directory, then does as `-m` does.
_RUN_MODULE = (
    "import runpy,sys;sys.path[0]=sys.argv.pop(1);"
    "runpy.run_module(sys.argv.pop(1),run_name='__main__',alter_sys=True)"
)


@dataclass(frozen=True)
class Spec:
    """What to run, on how much, and how patiently."""

    python: str
    cwd: str
    name: str = "dto"
    script: str | None = None
    module: str | None = None
    args: list[str] = field(default_factory=list)
    code: str | None = None
    tree: str | None = None
    """The work tree that `code` is a copy of."""
    nodes: int = 1
    ranks_per_node: int = 1
    cpus_per_rank: int | None = None
    gpus_per_node: int | None = None
    backend: str = "auto"
    env: dict[str, str] = field(default_factory=dict)
    scheduler: str = "local"
    time_seconds: float | None = None
    requeue: bool = False
    retries: int = 0
    save_budget: float | None = None
    heartbeat_timeout: float = 30.0
    start_timeout: float = 300.0

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node

    def command(self) -> list[str]:
        """Return the argument vector of every rank."""
        if self.script is not None:
            return [self.python, self.script, *self.args]
        assert self.module is not None
        if self.code:
            return [self.python, "-c", _RUN_MODULE, self.code, self.module, *self.args]
        return [self.python, "-m", self.module, *self.args]

    def search_path(self, path: str, copy: Path) -> str:
        """Lead a PYTHONPATH's entries in the tree to its copy, where they are there.

        `PYTHONPATH=. dto submit scripts/train.py` would else import the tree as it is by now.
        """
        entries = []
        for entry in path.split(os.pathsep):
            place = Path(os.path.realpath(os.path.join(self.cwd, entry)))
            inside = self.tree is not None and place.is_relative_to(self.tree)
            moved = copy / place.relative_to(self.tree) if self.tree and inside else place
            entries.append(os.fspath(moved) if inside and moved.exists() else entry)
        return os.pathsep.join(entries)


def read_spec(submission: Path) -> Spec:
    """Read spec.json of a submission.

    Raises:
        DtoError: it is absent, of another version, or names nothing to run.
    """
    path = submission / "spec.json"
    record = read_json(path)
    if not isinstance(record, dict):
        raise DtoError(f"{path} is missing or not JSON: submit the run again")
    if record.get("version") != VERSION:
        raise DtoError(
            f"{path} has version {record.get('version')}, this dto reads {VERSION}: "
            "use the dto that wrote it"
        )
    return parse_spec(record["values"])


def parse_spec(values: Mapping[str, Any]) -> Spec:
    known = {f.name for f in fields(Spec)}
    optional = {"script", "module", "code", "tree", "cpus_per_rank", "gpus_per_node"}
    optional |= {"time_seconds", "save_budget"}
    given = {
        key: value
        for key, value in values.items()
        if key in known and (value is not None or key in optional)
    }
    spec = Spec(**given)
    if (spec.script is None) == (spec.module is None):
        raise DtoError("spec.json must name a script or a module, and not both")
    return spec
