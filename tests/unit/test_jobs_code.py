"""A submitted job runs the code as it was, and equal trees share one copy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dto.errors import UsageError
from dto.jobs import code
from dto.jobs.code import content_hash, copy_tree, find_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "pkg").mkdir(parents=True)
    (root / "train.py").write_text("import pkg\n")
    (root / "pkg" / "__init__.py").write_text("")
    (root / ".gitignore").write_text("data\n*.tmp\nignored.py\n")
    (root / "data").mkdir()
    (root / "data" / "big.bin").write_bytes(b"x")
    (root / "new.py").write_text("# not added yet\n")
    (root / "gone.py").write_text("")
    git(root, "init", "-q")
    git(root, "add", "train.py", "pkg", ".gitignore", "gone.py")
    (root / "gone.py").unlink()
    return root


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


def found(root: Path, script: Path | None = None, runs: Path | None = None) -> code.Tree:
    tree = find_tree(root, script, runs or root / "runs")
    assert tree is not None
    return tree


def test_code_is_what_git_tracks_or_would(tree: Path) -> None:
    assert found(tree).files == (".gitignore", "new.py", "pkg/__init__.py", "train.py")


def test_an_ignored_script_is_taken_along(tree: Path) -> None:
    (tree / "ignored.py").write_text("")
    assert "ignored.py" in found(tree, tree / "ignored.py").files


def test_earlier_runs_are_no_code(tree: Path) -> None:
    (tree / "runs" / ".code" / "abc").mkdir(parents=True)
    (tree / "runs" / ".code" / "abc" / "train.py").write_text("")
    assert not any(name.startswith("runs/") for name in found(tree).files)
    assert any(name.startswith("runs/") for name in found(tree, runs=tree / "out").files)


def test_a_clone_within_the_clone_is_copied_too(tree: Path) -> None:
    (tree / "lib").mkdir()
    (tree / "lib" / "inner.py").write_text("")
    git(tree / "lib", "init", "-q")
    assert "lib/inner.py" in found(tree).files


def test_a_submodule_that_was_never_fetched_is_passed_over(tree: Path) -> None:
    (tree / "lib").mkdir()
    git(tree, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},lib")
    assert found(tree).files == (".gitignore", "new.py", "pkg/__init__.py", "train.py")


def test_no_git_no_tree(tmp_path: Path) -> None:
    assert find_tree(tmp_path, None, tmp_path) is None


def test_a_copy_is_the_tree_and_is_shared_by_equal_ones(tree: Path, tmp_path: Path) -> None:
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "here").symlink_to("train.py")
    (tree / "outside").symlink_to("../elsewhere")
    odd = os.fsdecode(b"caf\xe9.py")
    (tree / odd).write_text("")
    copy = copy_tree(found(tree), tmp_path / "runs")
    assert (copy / "train.py").read_text() == "import pkg\n"
    assert os.access(copy / "run.sh", os.X_OK) and (copy / odd).exists()
    assert os.readlink(copy / "here") == "train.py"
    assert os.readlink(copy / "outside") == str(tmp_path / "elsewhere")
    assert copy_tree(found(tree), tmp_path / "runs") == copy
    (tree / "train.py").write_text("import os\n")
    assert copy_tree(found(tree), tmp_path / "runs") != copy
    assert sorted(p.name[0] == "." for p in copy.parent.iterdir()) == [False, False]


def test_the_hash_sees_names_contents_and_modes(tree: Path) -> None:
    before = content_hash(found(tree))
    (tree / "new.py").chmod(0o755)
    after = content_hash(found(tree))
    (tree / "new.py").rename(tree / "newer.py")
    assert len({before, after, content_hash(found(tree))}) == 3


def test_data_is_no_code(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "MOST_BYTES", 2**20)
    (tree / "weights.bin").write_bytes(bytes(2**20))
    with pytest.raises(UsageError, match="more than 1: list its data in .gitignore"):
        copy_tree(found(tree), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
