"""SLURM's HealthCheckProgram: drains this node when it is ill, and takes back only that drain."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dto.cluster.node import probes, slurm
from dto.cluster.node.facts import RUN, Node

_PASSES_TO_RETURN = 2
_OWN = ("health", "gate")


@dataclass(frozen=True)
class Step:
    """What to do with the node, and how many checks in a row it has passed by then."""

    action: Literal["drain", "resume", "nothing"]
    passes: int
    reason: str = ""


def decide(state: slurm.NodeState, problems: list[str], passes: int) -> Step:
    """Pure: a person's drain is never touched, neither are our drains for another cause."""
    if problems:
        reason = f"{slurm.OURS} health: {'; '.join(problems)}"
        if state.is_drained or state.is_down:
            return Step("nothing", 0)
        return Step("drain", 0, reason)
    passes += 1
    if state.is_drained and state.has_reason(*_OWN) and passes >= _PASSES_TO_RETURN:
        return Step("resume", passes)
    return Step("nothing", passes)


def look(node: Node) -> list[str]:
    found = probes.gpu_files(node) or probes.gpus_listed(node) or probes.gpu_errors(node)
    return found + probes.shared_folder(node)


def check(node: Node, folder: Path = RUN) -> int:
    problems = look(node)
    state = slurm.node(node.name)
    if state is None:
        return 0
    step = decide(state, problems, _read_passes(folder))
    _write_passes(folder, step.passes, problems)
    if step.action == "drain":
        slurm.drain(node.name, step.reason)
    elif step.action == "resume":
        slurm.resume(node.name)
    return 1 if problems else 0


def _read_passes(folder: Path) -> int:
    try:
        return int(json.loads((folder / "health.json").read_text())["passes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_passes(folder: Path, passes: int, problems: list[str]) -> None:
    folder.mkdir(mode=0o755, exist_ok=True)
    partial = folder / "health.json.partial"
    partial.write_text(json.dumps({"passes": passes, "problems": problems}) + "\n")
    os.replace(partial, folder / "health.json")
