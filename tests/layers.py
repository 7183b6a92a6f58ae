"""What each layer of tests needs of a machine, and which layers this one lacks."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def _root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def _programs(names: str, packages: str) -> str | None:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = [name for name in names.split() if shutil.which(name, path=path) is None]
    return f"needs {', '.join(missing)} (Debian: {packages})" if missing else _root()


def _slurm() -> str | None:
    programs = "slurmctld slurmd srun sbatch scontrol squeue"
    return _programs(programs, "slurmctld slurmd slurm-client")


def _lab() -> str | None:
    programs = "systemd-nspawn mmdebstrap nft ip nsenter ssh ssh-keygen"
    packages = "systemd-container mmdebstrap nftables iproute2 util-linux openssh-client"
    return _programs(programs, packages)


def _vm() -> str | None:
    programs = "qemu-system-x86_64 qemu-img mmdebstrap mke2fs nft ip ssh ssh-keygen"
    packages = "qemu-system-x86 qemu-utils mmdebstrap e2fsprogs nftables iproute2 openssh-client"
    return _programs(programs, packages)


def _cloud() -> str | None:
    return None if shutil.which("terraform") else "needs terraform (>= 1.11)"


def _horovod() -> str | None:
    if importlib.util.find_spec("horovod") is None:
        return "needs Horovod (scripts/install-horovod.sh)"
    return None


def _gpu() -> str | None:
    return None if Path("/dev/nvidiactl").exists() else "needs an NVIDIA GPU"


# mark -> why its tests cannot run here, or None
NEEDS: dict[str, Callable[[], str | None]] = {
    "rig": _slurm,
    "lab": _lab,
    "vm": _vm,
    "cloud": _cloud,
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
