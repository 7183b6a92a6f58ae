"""What each layer of tests needs: missing is a skip with its reason, where CI=true a failure."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


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
    if Path("/dev/nvidiactl").exists():
        return None
    return "needs an NVIDIA GPU"


NEEDS: dict[str, Callable[[], str | None]] = {
    "root": _root,
    "slurm": _slurm,
    "horovod": _horovod,
    "gpu": _gpu,
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark, missing in NEEDS.items():
        if item.get_closest_marker(mark) is None:
            continue
        reason = missing()
        if reason is None:
            continue
        if os.environ.get("CI") == "true" and mark != "gpu":
            pytest.fail(f"{mark}: {reason}", pytrace=False)
        pytest.skip(f"{mark}: {reason}")


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(autouse=True)
def _a_private_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads the settings of whoever runs it, or of a job that it runs in."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in list(os.environ):
        if name.startswith(("DTO_", "SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "XDG_CONFIG")):
            monkeypatch.delenv(name)
