"""What the playbooks bring to hosts: a wheel that installs, scripts and examples."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dto
from dto.cluster.wheel import build_wheel, gather_tree, pack_node_programs
from tests.helpers import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_is_the_same_bytes_every_time(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "dto-0.0.1-py3-none-any.whl").write_bytes(b"old")
    again = build_wheel(tmp_path)
    assert again.read_bytes() == wheel.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]
    assert wheel.name == f"dto-{dto.__version__}-py3-none-any.whl"


def install(wheel: Path, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", folder, wheel], check=True, timeout=110)


def built_by_installed(installed: Path, folder: Path) -> Path:
    """The wheel that a dto of its own makes of itself."""
    code = (
        "import sys; from pathlib import Path; from dto.cluster.wheel import build_wheel; "
        "import dto.cluster; assert dto.__file__.startswith(sys.argv[1]), dto.__file__; "
        "print(build_wheel(Path(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, installed, folder], cwd=folder.parent, text=True,
        env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_an_installed_dto_becomes_a_wheel_again(wheel: Path, tmp_path: Path) -> None:
    origin = tmp_path / wheel.name
    shutil.copy(wheel, origin)
    install(origin, tmp_path / "one")
    same = built_by_installed(tmp_path / "one", tmp_path / "same")
    assert same.read_bytes() == wheel.read_bytes(), "what is built from it would be another"
    origin.unlink()
    rebuilt = built_by_installed(tmp_path / "one", tmp_path / "again")
    assert _contents(rebuilt) == _contents(wheel)
    install(rebuilt, tmp_path / "two")
    assert (tmp_path / "two" / "dto" / "cli" / "main.py").is_file()


def _contents(wheel: Path) -> dict[str, bytes]:
    archive = zipfile.ZipFile(wheel)
    return {name: archive.read(name) for name in archive.namelist() if "RECORD" not in name}


def test_the_node_programs_run_by_a_python_that_has_nothing_else(tmp_path: Path) -> None:
    packed = pack_node_programs(tmp_path)
    raw = packed.read_bytes()
    assert pack_node_programs(tmp_path).read_bytes() == raw
    done = subprocess.run(
        [sys.executable, "-I", "-S", packed, "--help"],
        cwd=tmp_path, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_scripts_and_examples_travel_without_leftovers(tmp_path: Path) -> None:
    source = tmp_path / "examples"
    shutil.copytree(REPOSITORY / "examples", source)
    (source / "__pycache__").mkdir(exist_ok=True)
    (source / "__pycache__" / "x.pyc").write_bytes(b"")
    for _ in range(2):
        tree = gather_tree(tmp_path / "tree", {"examples": source})
    assert (tree / "examples" / "simple_net.py").is_file()
    assert not (tree / "examples" / "__pycache__").exists()
    assert not list(tree.glob(".*"))
