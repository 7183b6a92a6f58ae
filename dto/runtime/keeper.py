"""Checkpoints of a whole world: rank 0 writes, every reader hashes, all agree on which to load."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.generators import capture_generators
from dto.checkpoint.manifest import Manifest
from dto.checkpoint.state import capture, restore
from dto.checkpoint.store import Commit, Store
from dto.checkpoint.tree import pack, unpack
from dto.errors import CheckpointError, DtoError
from dto.runtime.shards import Cut, write_parts
from dto.runtime.transport import Transport
from dto.telemetry import Link

log = logging.getLogger(__name__)


@dataclass
class Subject:
    """What is trained, hence what is saved. `objects` have state_dict and load_state_dict."""

    model: nn.Module
    optimizer: Optimizer
    objects: dict[str, Any] = field(default_factory=dict)
    cut: Cut | None = None
    """How ranks share it out; None where each has all of it."""


@dataclass(frozen=True)
class Standing:
    """Where training stands."""

    step: int
    position: dict[str, Any]
    global_batch: int
    extra: dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory, not yet in the model."""

    manifest: Manifest
    tensors: dict[str, torch.Tensor]

    def rank_state(self, rank: int, mesh: list[int]) -> dict[str, Any] | None:
        """What this rank saved; None where the ranks stood otherwise."""
        ranks = self.manifest.extra.get("ranks", [])
        then = self.manifest.extra.get("mesh", [len(ranks), 1, 1])
        return dict(ranks[rank]) if then == mesh and len(ranks) > rank else None


class Keeper:
    """Saves and loads for all ranks together. Every rank calls every method, except where said."""

    def __init__(self, transport: Transport, link: Link, store: Store) -> None:
        self.transport, self.store = transport, store
        self._link = link
        self.parent: str | None = None
        self.saved_step: int | None = None
        self.saved_at = time.monotonic()
        self.after_commit: list[Callable[[Commit], None]] = []

    def save(
        self,
        subject: Subject,
        standing: Standing,
        rank_state: dict[str, Any],
        is_best: bool = False,
    ) -> str:
        """Commit a checkpoint and return its name; a step that is committed already stays.

        Raises:
            CheckpointError: rank 0 could not write it; all ranks raise.
        """
        mine = {"generators": capture_generators(), **rank_state}
        states = self.transport.all_gather_object(mine)
        began = time.monotonic()
        outcome: tuple[str | None, str] = (None, "")
        try:
            parts = self._write_parts(subject, standing, states)
            if self.transport.rank == 0:
                outcome = (self.write(subject, standing, states, is_best, parts, began), "")
        except OSError as error:
            where = self.store.directory
            outcome = (None, f"{error.strerror} in {where}: mend that, then resume the run")
        except DtoError as error:
            outcome = (None, str(error))
        name, reason = self.transport.all_gather_object(outcome)[0]
        if name is None:
            raise CheckpointError(f"step {standing.step} could not be saved: {reason}")
        self.parent, self.saved_step, self.saved_at = name, standing.step, time.monotonic()
        return str(name)

    def _write_parts(
        self, subject: Subject, standing: Standing, states: list[dict[str, Any]]
    ) -> Commit | None:
        """All ranks: what no rank has whole; None where rank 0 can write, or this step is there."""
        if subject.cut is None or self._is_saved(standing):
            return None
        manifest = self._manifest(subject, standing, states)
        return write_parts(self.transport, self.store, manifest, subject.cut, subject.objects)

    def _is_saved(self, standing: Standing) -> bool:
        return self.saved_step == standing.step and self.parent is not None

    def write(
        self,
        subject: Subject,
        standing: Standing,
        states: list[dict[str, Any]],
        is_best: bool,
        parts: Commit | None = None,
        began: float | None = None,
    ) -> str:
        """Rank 0 alone: write (unless it has been, in `parts`), tell, prune."""
        began = time.monotonic() if began is None else began
        if self._is_saved(standing):
            commit = self._find(str(self.parent))
        else:
            commit = parts or self._commit(subject, standing, states)
            manifest = self.store.manifest(commit)
            self._link.post(
                "commit",
                step=standing.step,
                name=commit.name,
                seconds=time.monotonic() - began,
                bytes=sum(record["bytes"] for record in manifest.files.values()),
            )
            for tell in self.after_commit:
                tell(commit)
        if is_best:
            self.store.mark_best(commit)
        self.store.prune()
        return commit.name

    def _commit(self, subject: Subject, standing: Standing, states: list[dict[str, Any]]) -> Commit:
        tensors, optimizer = capture(subject.model, subject.optimizer)
        objects = {
            name: pack(thing.state_dict(), f"state/{name}", tensors)
            for name, thing in subject.objects.items()
        }
        manifest = self._manifest(subject, standing, states)
        extra = {**manifest.extra, "objects": objects}
        return self.store.save(replace(manifest, optimizer=optimizer, extra=extra), tensors)

    def _manifest(
        self, subject: Subject, standing: Standing, states: list[dict[str, Any]]
    ) -> Manifest:
        """All but the tensors and what belongs to them."""
        return Manifest(
            step=standing.step,
            parent=self.parent,
            attempt=self.store.attempt,
            generation=self.store.generation,
            world=self.transport.size,
            strategy=subject.cut.strategy.name if subject.cut else "ddp",
            global_batch=standing.global_batch,
            position=standing.position,
            tensors=[],
            optimizer={},
            files={},
            extra={**standing.extra, "ranks": states},
        )

    def _find(self, name: str) -> Commit:
        for commit in self.store.commits():
            if commit.name == name:
                return commit
        raise CheckpointError(f"{self.store.directory / name} is not there (any more)")

    def load_newest(self, store: Store, only: str | None = None) -> Loaded | None:
        """The newest checkpoint of `store` that is whole for every rank; None if there is none.

        `only` names the single one that will do.

        Raises:
            CheckpointError: there are some, and all are damaged.
        """
        offered = _offered(store) if self.transport.rank == 0 else ([], 0)
        names, there = self.transport.all_gather_object(offered)[0]
        names = [only] if only else names
        for name in names:
            loaded, reason = _try(store, name)
            reasons = [r for r in self.transport.all_gather_object(reason) if r is not None]
            if not reasons:
                self.parent = name if store.directory == self.store.directory else None
                return loaded
            if self.transport.rank == 0:
                log.warning("checkpoint %s is skipped: %s", name, reasons[0])
                self._link.post("event", name="checkpoint-skipped", text=f"{name}: {reasons[0]}")
        if only:
            raise CheckpointError(f"checkpoint {store.directory / only} is damaged: name another")
        if there:
            raise CheckpointError(
                f"all {there} checkpoints in {store.directory} are damaged:"
                " move that folder away to start from the beginning"
            )
        return None


def _offered(store: Store) -> tuple[list[str], int]:
    """Names to try, and how many checkpoints there are, with those nobody can even read."""
    for name in store.unfinished():
        log.warning("checkpoint %s is skipped: it has no manifest, so it was never finished", name)
    return [commit.name for commit in store.candidates()], len(store.commits())


def _try(store: Store, name: str) -> tuple[Loaded | None, str | None]:
    commit = next((c for c in store.commits() if c.name == name), None)
    if commit is None:
        return None, f"it cannot be seen in {store.directory} from every node"
    try:
        return Loaded(*store.load(commit)), None
    except (CheckpointError, OSError) as error:
        return None, str(error)


def put_back(loaded: Loaded, subject: Subject, transport: Transport) -> None:
    """Load model, optimizer and objects; strict. All ranks do it together."""
    if subject.cut is not None:
        subject.cut.restore(transport, loaded.tensors, loaded.manifest.optimizer)
    else:
        restore(subject.model, subject.optimizer, loaded.tensors, loaded.manifest.optimizer)
    saved: Mapping[str, Any] = loaded.manifest.extra.get("objects", {})
    for name, thing in subject.objects.items():
        if name not in saved:
            log.warning("the checkpoint holds no state of %s: it starts afresh", name)
            continue
        state = unpack(saved[name], loaded.tensors)
        try:
            thing.load_state_dict(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            words = " ".join(str(error).split())
            raise CheckpointError(
                f"the checkpoint's {name} does not fit this {type(thing).__name__}: {words}"
            ) from error
