"""What this machine has, found without torch: GPUs that may be used, CPUs that may be used."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """The GPUs and CPUs that a job on this machine finds."""

    gpus: int
    cpus: int


def this_machine(env: Mapping[str, str]) -> Machine:
    return Machine(visible_gpus(env, Path("/dev")), len(os.sched_getaffinity(0)))


def visible_gpus(env: Mapping[str, str], devices: Path) -> int:
    """Count NVIDIA's device files, less what CUDA_VISIBLE_DEVICES hides.

    The files take microseconds to list; nvidia-smi takes a second and may be absent.
    """
    try:
        names = os.listdir(devices)
    except OSError:
        names = []
    present = sum(re.fullmatch(r"nvidia\d+", name) is not None for name in names)
    chosen = env.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    listed = [word for word in chosen.split(",") if word.strip()]
    hidden = next((i for i, word in enumerate(listed) if word.strip() == "-1"), len(listed))
    return min(present, hidden)
