"""What each layer of tests needs of a machine, and which layers this one lacks."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def _root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def _slurm() -> str | None:
    programs = ("slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue")
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: slurmctld slurmd slurm-client)"
    return _root()


def _horovod() -> str | None:
    if importlib.util.find_spec("horovod") is None:
        return "needs Horovod (scripts/install-horovod.sh)"
    return None


def _gpu() -> str | None:
    return None if Path("/dev/nvidiactl").exists() else "needs an NVIDIA GPU"


# mark -> why its tests cannot run here, or None
NEEDS: dict[str, Callable[[], str | None]] = {
    "rig": _slurm,
    "horovod": _horovod,
    "gpu": _gpu,
}


def must_run(mark: str) -> bool:
    """CI leaves nothing out but what needs hardware."""
    return os.environ.get("CI") == "true" and mark != "gpu"


if __name__ == "__main__":
    for mark, missing in NEEDS.items():
        if reason := missing():
            print(f"left out: the {mark} tests: {reason}")
