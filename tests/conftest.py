"""Skip what this machine cannot run, saying why; keep every test away from the user's settings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.layers import NEEDS, must_run

# A shell that starts us with `&` has SIGINT ignored, and dto respects that as nohup asks it to; the
# tests of Ctrl-C start from a terminal's setting.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure.
settings.register_profile("dto", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dto")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark, missing in NEEDS.items():
        if item.get_closest_marker(mark) is None or (reason := missing()) is None:
            continue
        if must_run(mark):
            pytest.fail(f"{mark}: {reason}", pytrace=False)
        pytest.skip(f"{mark}: {reason}")


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _a_private_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads the settings of whoever runs it, or of a job that it runs in."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # hides what a full disk does at exit
    for name in list(os.environ):
        if name.startswith(("DTO_", "SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "XDG_CONFIG")):
            monkeypatch.delenv(name)
