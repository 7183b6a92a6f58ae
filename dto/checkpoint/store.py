"""The checkpoints of one run: committed by a rename, chained by parents, hashed by every reader."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dto.checkpoint import assemble, tensor_file
from dto.checkpoint.manifest import Manifest, entries_for
from dto.errors import CheckpointError
from dto.runs.files import fsync_directory, read_json, write_atomic, write_json

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d+)\.a(\d+)g(\d+)")


@dataclass(frozen=True)
class Commit:
    """One checkpoint directory with a manifest in it."""

    path: Path
    step: int
    attempt: int
    generation: int

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def order(self) -> tuple[int, int, int]:
        """The newest attempt wins over the highest step."""
        return (self.attempt, self.generation, self.step)


class Store:
    """Reads and writes `checkpoints/`; only one rank of an attempt commits and prunes.

    `keep_last` of 0 or less keeps everything.
    """

    def __init__(
        self, directory: Path, attempt: int = 0, generation: int = 0, keep_last: int = 3
    ) -> None:
        self.directory = Path(directory)
        self.attempt = attempt
        self.generation = generation
        self.keep_last = keep_last

    # reading

    def commits(self) -> list[Commit]:
        """Every committed directory, newest first, on the chain or not, valid or not."""
        found = [c for c in self._directories() if (c.path / MANIFEST).is_file()]
        return sorted(found, key=lambda commit: commit.order, reverse=True)

    def unfinished(self) -> list[str]:
        """What lies above the newest commit without a manifest: a save was cut short there."""
        newest = max((c.order for c in self.commits()), default=(-1, -1, -1))
        above = [c for c in self._directories() if c.order > newest]
        return [c.name for c in sorted(above, key=lambda commit: commit.order)]

    def chain(self) -> list[Commit]:
        """The newest commit, its parent, and so on; what other attempts left beside it is not here.

        A manifest that cannot be read names no parent: the next older commit takes its place.
        """
        known = {commit.name: commit for commit in self.commits()}
        chain: list[Commit] = []
        commit = next(iter(known.values()), None)
        while commit is not None:
            place = commit.order
            try:
                parent = known.get(self.manifest(commit).parent or "")
            except CheckpointError as error:
                log.warning("checkpoint %s is skipped: %s", commit.name, error)
                commit = next((c for c in known.values() if c.order < place), None)
                continue
            chain.append(commit)
            commit = parent if parent is not None and parent.order < place else None
        return chain

    def candidates(self) -> list[Commit]:
        """What a resume tries, in this order, until one verifies."""
        return self.chain()

    def latest_valid(self) -> Commit | None:
        """The first candidate that verifies; the damaged ones before it are warned about."""
        for commit in self.candidates():
            reason = self.verify(commit)
            if reason is None:
                return commit
            log.warning("checkpoint %s is skipped: %s", commit.name, reason)
        return None

    def manifest(self, commit: Commit) -> Manifest:
        """The commit's manifest; CheckpointError if it is missing or was changed."""
        try:
            raw = (commit.path / MANIFEST).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{commit.path / MANIFEST}: {error.strerror}") from error
        manifest = Manifest.from_json(raw)
        if (manifest.attempt, manifest.generation, manifest.step) != commit.order:
            raise CheckpointError(f"{commit.path} holds the manifest of another checkpoint")
        return manifest

    def verify(self, commit: Commit) -> str | None:
        """None if every byte is as it was committed, else why not."""
        try:
            manifest = self.manifest(commit)
        except CheckpointError as error:
            return str(error)
        for name, record in manifest.files.items():
            reason = tensor_file.why_not(commit.path / name, record)
            if reason is not None:
                return reason
        return assemble.uncovered(manifest.tensors, manifest.files)

    def load(self, commit: Commit) -> tuple[Manifest, dict[str, torch.Tensor]]:
        """Manifest and whole tensors; CheckpointError if a single byte differs."""
        manifest = self.manifest(commit)
        reason = assemble.uncovered(manifest.tensors, manifest.files)
        if reason is not None:
            raise CheckpointError(f"{commit.name}: {reason}")
        files = {
            name: tensor_file.read_tensors(commit.path / name, record)
            for name, record in manifest.files.items()
        }
        return manifest, assemble.assemble(manifest.tensors, files)

    # writing

    def path(self, step: int) -> Path:
        """Where this attempt's checkpoint of `step` lies."""
        return self.directory / f"step-{step}.a{self.attempt}g{self.generation}"

    def begin(self, step: int) -> Path:
        """An empty directory for `step`; what a killed save left under its name is removed."""
        path = self.path(step)
        if (path / MANIFEST).exists():
            raise CheckpointError(f"{path} is already committed: save each step once")
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        return path

    def write(
        self, directory: Path, filename: str, tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, Any]:
        """Write one file of a begun checkpoint; returns its record for `Manifest.files`."""
        return tensor_file.write_tensors(directory / filename, tensors)

    def commit(self, directory: Path, manifest: Manifest) -> Commit:
        """Make a begun checkpoint count: the rename of its manifest is the commit."""
        found = _parse(directory)
        if found is None or found.order != (manifest.attempt, manifest.generation, manifest.step):
            raise CheckpointError(f"{directory.name} is not the directory of this manifest")
        if (directory / MANIFEST).exists():
            raise CheckpointError(f"{directory} is already committed: save each step once")
        for name, record in manifest.files.items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != record["bytes"]:
                raise CheckpointError(f"{path} was not written whole: the checkpoint is given up")
        fsync_directory(directory)
        fsync_directory(self.directory)
        write_atomic(directory / MANIFEST, manifest.to_json())
        return found

    def save(self, manifest: Manifest, tensors: Mapping[str, torch.Tensor]) -> Commit:
        """Begin, write and commit whole tensors from one rank; fills in tensors and files.

        Raises:
            OSError: the disk is full, say; what was half written is gone again.
        """
        directory = self.begin(manifest.step)
        try:
            record = self.write(directory, "rank-0.safetensors", tensors)
            whole = replace(
                manifest,
                attempt=self.attempt,
                generation=self.generation,
                tensors=entries_for(tensors, "rank-0.safetensors", range(manifest.world)),
                files={"rank-0.safetensors": record},
            )
            return self.commit(directory, whole)
        except OSError:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    # keeping

    def mark_best(self, commit: Commit) -> None:
        """Remember `commit` as the best one; pruning spares it."""
        write_json(self.directory / "best.json", {"name": commit.name})

    def best(self) -> Commit | None:
        """The commit last marked best, if it is still there."""
        record = read_json(self.directory / "best.json")
        name = record.get("name") if isinstance(record, dict) else None
        return next((c for c in self.commits() if c.name == name), None)

    def prune(self) -> list[str]:
        """Remove all but the last `keep_last` of the chain and the best; returns removed names.

        An attempt that a newer one has overtaken removes nothing.
        """
        chain = self.chain()
        if not chain or chain[0].order[:2] > (self.attempt, self.generation):
            return []
        keep = {c.name for c in (chain[: self.keep_last] if self.keep_last > 0 else chain)}
        best = self.best()
        if best is not None:
            keep.add(best.name)
        removed = []
        for found in self._directories():
            committed = (found.path / MANIFEST).is_file()
            spare = found.name in keep or found.order > chain[0].order
            if spare or (committed and self.keep_last <= 0):
                continue
            _remove(found.path)
            removed.append(found.name)
        return sorted(removed)

    def _directories(self) -> list[Commit]:
        if not self.directory.is_dir():
            return []
        found = (_parse(path) for path in self.directory.iterdir() if path.is_dir())
        return [commit for commit in found if commit is not None]


def _parse(path: Path) -> Commit | None:
    match = _NAME.fullmatch(path.name)
    return Commit(path, *(int(group) for group in match.groups())) if match else None


def _remove(path: Path) -> None:
    """The manifest goes first: a removal cut short leaves no commit that lacks files."""
    (path / MANIFEST).unlink(missing_ok=True)
    try:
        shutil.rmtree(path)
    except OSError as error:  # a file still open elsewhere on NFS: the next prune gets it
        log.warning("%s could not be removed yet: %s", path, error)
