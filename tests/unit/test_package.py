"""The wheel carries what dto needs at run time, and nothing of the checkout is needed beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dto


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    repository = Path(__file__).parents[2]
    subprocess.run([*command, "-w", str(folder), str(repository)], check=True, timeout=110)
    return next(folder.glob("dto-*.whl"))


def test_the_wheel_carries_the_version_and_the_templates(wheel: Path, repository: Path) -> None:
    assert wheel.name.split("-")[1] == dto.__version__
    packed = set(zipfile.ZipFile(wheel).namelist())
    for template in (repository / "templates").glob("*.j2"):
        assert f"dto/_data/templates/{template.name}" in packed
    assert "dto/py.typed" in packed
    assert {name.split("/")[0].split("-")[0] for name in packed} == {"dto"}


def test_an_installed_wheel_renders_a_job_away_from_the_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = tmp_path / "train.py"
    script.write_text("print('hello')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    where = [sys.executable, "-c", "import dto.cli; print(dto.cli.__file__)"]
    found = subprocess.run(where, env=env, cwd=tmp_path, text=True, capture_output=True, check=True)
    assert found.stdout.startswith(str(tmp_path))
    command = [sys.executable, "-m", "dto.cli", "render", str(script)]
    done = subprocess.run(command, env=env, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash")
