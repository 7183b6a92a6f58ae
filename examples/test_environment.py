"""Show what a rank finds here: versions, devices, backends, and the names a launcher set.

    python examples/test_environment.py                         on this machine
    scripts/submit_job.sh -N 2 examples/test_environment.py     on every node of a job

The exit code is 1 where something that dto cannot do without is missing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys

NEEDED = ("dto", "torch", "numpy", "safetensors", "pydantic", "click", "jinja2")
WELCOME = ("horovod", "boto3", "scikit-learn")
SHOWN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID",
         "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES", "NCCL_SOCKET_IFNAME", "FI_PROVIDER",
         "DTO_RUN_DIR", "OMP_NUM_THREADS")  # fmt: skip


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def backends() -> dict[str, str]:
    """What collectives can run on here."""
    import torch
    import torch.distributed as distributed

    found = {"gloo": "yes" if distributed.is_gloo_available() else "no"}
    nccl = distributed.is_nccl_available() and torch.cuda.is_available()
    found["nccl"] = "yes" if nccl else "no (it needs an NVIDIA GPU)"
    has_horovod = importlib.util.find_spec("horovod") is not None
    found["horovod"] = "yes" if has_horovod else "no (scripts/install-horovod.sh builds it)"
    return found


def devices() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    return [f"cuda:{n} {torch.cuda.get_device_name(n)}" for n in range(count)] or ["cpu"]


def slurm() -> str:
    if not shutil.which("sinfo"):
        return "not here"
    asked = ["sinfo", "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return said.stdout.strip() or "does not answer"


def main() -> None:
    missing = [name for name in NEEDED if version(name) is None]
    rows = [
        ("host", socket.gethostname()),
        ("system", f"{platform.platform()}, {len(os.sched_getaffinity(0))} CPUs"),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        *((name, version(name) or "MISSING") for name in NEEDED),
        *((name, version(name) or "not installed") for name in WELCOME),
        ("slurm", slurm()),
    ]
    if "torch" not in missing:
        rows += [("devices", ", ".join(devices()))]
        rows += [(f"backend {name}", said) for name, said in backends().items()]
    rows += [(name, os.environ[name]) for name in SHOWN if name in os.environ]
    print("\n".join(f"{name:20} {said}" for name, said in rows), flush=True)
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (pip install dto)")
    print("this environment is complete")


if __name__ == "__main__":
    main()
