"""What each layer of tests needs of a machine, and which layers this one lacks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

_REGISTRY = "registry.terraform.io"


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


def provider_mirror() -> Path | None:
    """Where an administrator put Terraform's providers for machines without its registry."""
    for base in ("/opt", "/usr/share", "/usr/local/share", "/usr/local/lib", "/var/lib"):
        for folder in sorted(Path(base).glob("*/registry.terraform.io/hashicorp/aws")):
            return folder.parents[2]
    return None


def _cloud() -> str | None:
    if shutil.which("terraform") is None:
        return "needs terraform (>= 1.11)"
    if provider_mirror() or Path(os.environ.get("TF_CLI_CONFIG_FILE", "")).is_file():
        return None
    try:
        socket.create_connection((_REGISTRY, 443), timeout=5).close()
    except OSError as error:
        return f"needs {_REGISTRY}, or a mirror of Terraform's providers ({error})"
    return None


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
