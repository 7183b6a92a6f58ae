"""A copy of the user's code as it was when the job was submitted, shared by equal trees."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dto.errors import UsageError
from dto.runs.paths import cannot_write

MOST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Tree:
    """A git work tree and the files in it that are code: tracked, or new and not ignored."""

    root: Path
    files: tuple[str, ...]


def find_tree(place: Path, script: Path | None, run_root: Path) -> Tree | None:
    """Return the work tree around `place`, or None where there is none (or no git).

    Earlier runs lie in ./runs by default; they are never part of the code.
    """
    top = _git(place, "rev-parse", "--show-toplevel")
    if top is None:
        return None
    root = Path(os.fsdecode(top.rstrip(b"\n")))
    files = set(_listed(root))
    if script is not None and script.is_relative_to(root):
        files.add(os.fspath(script.relative_to(root)))  # an ignored script is wanted all the same
    inside = os.path.relpath(os.path.realpath(run_root), root)
    kept = (f for f in files if f != inside and not f.startswith(inside + "/"))
    return Tree(root, tuple(sorted(kept)))


def copy_tree(tree: Tree, run_root: Path) -> Path:
    """Return `<run_root>/.code/<hash>`, made unless an equal tree is there already.

    Raises:
        UsageError: the tree is too large to be code, or some of it cannot be read.
    """
    try:
        size = sum((tree.root / name).lstat().st_size for name in tree.files)
        key = content_hash(tree) if size <= MOST_BYTES else ""
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename} ({error.strerror}), which belongs to the code: list it "
            "in .gitignore, or say --code in-place"
        ) from None
    if size > MOST_BYTES:
        raise UsageError(
            f"the code in {tree.root} is {size / 2**20:.0f} MB, more than "
            f"{MOST_BYTES / 2**20:.0f}: list its data in .gitignore, or say --code in-place"
        )
    shelf = run_root / ".code"
    goal = shelf / key
    if goal.is_dir():
        return goal
    try:
        shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=shelf))
        try:
            for name in tree.files:
                _copy(tree.root, name, partial / name)
            _publish(partial, goal)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise cannot_write(run_root, error) from None
    return goal


def content_hash(tree: Tree) -> str:
    """Return a hash of names, kinds and contents, independent of where the tree lies."""
    total = hashlib.sha256()
    for name in tree.files:
        path = tree.root / name
        kind, content = _content(tree.root, path)
        total.update(b"%s\0%s\0%s\0" % (os.fsencode(name), kind, hashlib.sha256(content).digest()))
    return total.hexdigest()[:20]


def _content(root: Path, path: Path) -> tuple[bytes, bytes]:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return b"link", os.fsencode(_link_target(root, path))
    return (b"exec" if mode & stat.S_IXUSR else b"file"), path.read_bytes()


def _link_target(root: Path, path: Path) -> str:
    """Keep a link inside the tree as it is; one that leaves it must still lead where it led."""
    target = os.readlink(path)
    reached = os.path.normpath(os.path.join(path.parent, target))
    return target if Path(reached).is_relative_to(root) else reached


def _copy(root: Path, name: str, goal: Path) -> None:
    source = root / name
    goal.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        goal.symlink_to(_link_target(root, source))
    else:
        shutil.copy2(source, goal)


def _publish(partial: Path, goal: Path) -> None:
    partial.chmod(0o700)
    try:
        partial.rename(goal)
    except OSError as error:  # somebody submitted the same tree at the same moment
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _listed(root: Path) -> Iterator[str]:
    """Yield regular files and links of a work tree, those of nested work trees included."""
    raw = _git(root, "ls-files", "-co", "--exclude-standard", "-z") or b""
    for name in map(os.fsdecode, filter(None, raw.split(b"\0"))):
        path = root / name
        if path.is_dir() and not path.is_symlink():  # a submodule, or a clone within the clone
            if not os.path.lexists(path / ".git"):  # never filled: git would answer for `root`
                continue
            yield from (os.path.join(name, inner) for inner in _listed(path))
        elif os.path.lexists(path) and (path.is_symlink() or path.is_file()):
            yield name


def _git(place: Path, *words: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *words], cwd=place, capture_output=True, timeout=60)
    except (FileNotFoundError, NotADirectoryError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
