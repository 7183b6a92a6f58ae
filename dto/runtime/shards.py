"""A checkpoint in parts: every rank writes what it holds, rank 0 commits; and back again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.manifest import Manifest, TensorEntry, entries_for
from dto.checkpoint.sharded import (
    Held,
    Outline,
    Piece,
    as_state_dict,
    capture_held,
    merge_meta,
    restore_held,
)
from dto.checkpoint.state import model_values
from dto.checkpoint.store import Commit, Store
from dto.checkpoint.tree import pack
from dto.errors import CheckpointError, DtoError
from dto.runtime.strategy import Strategy
from dto.runtime.transport import Transport

SHARED = "shared.safetensors"


@dataclass(frozen=True)
class Cut:
    """A model and an optimizer that a strategy has spread over ranks."""

    model: nn.Module
    optimizer: Optimizer
    strategy: Strategy
    outline: Outline

    def capture(self, transport: Transport) -> tuple[list[Piece], dict[str, Any]]:
        """What this rank writes, and its part of the meta."""
        held = self.held()
        others = self._others(transport, held)
        return capture_held(held, others, self.optimizer, transport.rank)

    def restore(
        self, transport: Transport, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
    ) -> None:
        """Take this rank's part of a checkpoint's tensors."""
        held = self.held()
        values = self._there(held, transport)
        restore_held(held, values, self.optimizer, self.outline, tensors, meta)
        self.strategy.reload()

    def held(self) -> Sequence[Held]:
        return self.strategy.held() or ()

    def _there(self, held: Sequence[Held], transport: Transport) -> dict[str, torch.Tensor]:
        """Values of the model that nobody cuts and that this rank has, such as buffers."""
        names = {part.name for one in held for part in one.parts}
        cut = set[str]().union(*transport.all_gather_object(names))
        return {
            name: value
            for name, (_, value) in model_values(self.model).items()
            if isinstance(value, torch.Tensor) and name not in cut and self._is_whole(name, value)
        }

    def _is_whole(self, name: str, value: torch.Tensor) -> bool:
        """Values of other stages have been let go of: without memory, or without their shape."""
        form = self.outline.forms.get(name)
        has_memory = value.untyped_storage().nbytes() >= value.numel() * value.element_size()
        return form is not None and value.shape == form.shape and has_memory

    def _others(self, transport: Transport, held: Sequence[Held]) -> dict[str, torch.Tensor]:
        """Of those, what no lower rank has."""
        mine = self._there(held, transport)
        lower = transport.all_gather_object(list(mine))[: transport.rank]
        return {name: value for name, value in mine.items() if all(name not in n for n in lower)}


def write_parts(
    transport: Transport, store: Store, manifest: Manifest, cut: Cut, objects: Mapping[str, Any]
) -> Commit | None:
    """Save `cut` and `objects` (those of rank 0), all ranks together; rank 0 returns the commit.

    Raises:
        CheckpointError: a rank could not write; all ranks raise, and nothing stays of it.
    """
    is_first, file = transport.rank == 0, f"rank-{transport.rank}.safetensors"
    pieces, meta = cut.capture(transport)
    directory = store.path(manifest.step)
    try:
        _together(transport, lambda: store.begin(manifest.step) if is_first else None)
        records = _together(
            transport, lambda: store.write(directory, file, _stored(pieces)) if pieces else None
        )
        everyones = transport.all_gather_object((_entries(pieces, file), meta))

        def commit() -> Commit | None:
            if not is_first:
                return None
            entries = [entry for mine, _ in everyones for entry in mine]
            files = {f"rank-{n}.safetensors": record for n, record in enumerate(records) if record}
            shared: dict[str, torch.Tensor] = {}
            metas = [theirs for _, theirs in everyones]
            state = merge_meta(metas, cut.optimizer, cut.outline.groups, shared)
            packed = {
                name: pack(thing.state_dict(), f"state/{name}", shared)
                for name, thing in objects.items()
            }
            if shared:
                files[SHARED] = store.write(directory, SHARED, shared)
                entries += entries_for(shared, SHARED, range(transport.size))
            extra = {**manifest.extra, "objects": packed}
            whole = replace(manifest, tensors=entries, optimizer=state, files=files, extra=extra)
            return store.commit(directory, whole)

        commits: list[Commit | None] = _together(transport, commit)
        return commits[transport.rank]
    except CheckpointError:
        if is_first:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def gather_parts(transport: Transport, cut: Cut) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model, optimizer) as torch's `state_dict()` has them, whole, on rank 0; empty elsewhere."""
    pieces, meta = cut.capture(transport)
    device = next((one.tensor.device for one in cut.held()), torch.device("cpu"))
    whole: dict[str, torch.Tensor] = {}
    everyones = transport.all_gather_object((_entries(pieces, ""), meta))
    for rank, (entries, _) in enumerate(everyones):
        for number, entry in enumerate(entries):
            begin, end = entry.range
            data = torch.empty(end - begin, dtype=getattr(torch, entry.dtype), device=device)
            if rank == transport.rank:
                data.copy_(pieces[number].data)
            if data.numel():
                transport.broadcast(data, rank)
            if transport.rank == 0:
                flat = whole.setdefault(entry.name, torch.empty(entry.shape, dtype=data.dtype))
                flat.view(-1)[begin:end] = data.cpu()
    if transport.rank != 0:
        return {}, {}
    metas = [theirs for _, theirs in everyones]
    return as_state_dict(whole, merge_meta(metas, cut.optimizer, cut.outline.groups, whole))


def _entries(pieces: Sequence[Piece], file: str) -> list[TensorEntry]:
    return [
        TensorEntry(
            name=piece.name,
            shape=piece.shape,
            dtype=str(piece.data.dtype).removeprefix("torch."),
            file=file,
            range=(piece.begin, piece.end),
            replicas=list(piece.replicas),
        )
        for piece in pieces
    ]


def _stored(pieces: Sequence[Piece]) -> dict[str, torch.Tensor]:
    """One flat tensor a name: its pieces in the order of their ranges."""
    found: dict[str, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.name, []).append(piece)
    return {
        name: torch.cat([p.data for p in sorted(of_name, key=lambda piece: piece.begin)])
        if len(of_name) > 1
        else of_name[0].data
        for name, of_name in found.items()
    }


def _together(transport: Transport, act: Callable[[], Any]) -> list[Any]:
    """Everybody's result, by rank; one rank's failure is everybody's."""
    outcome: tuple[Any, str | None] = (None, None)
    try:
        outcome = (act(), None)
    except OSError as error:
        outcome = (None, f"{error.strerror} on rank {transport.rank}: mend that, then resume")
    except DtoError as error:
        outcome = (None, str(error))
    outcomes = transport.all_gather_object(outcome)
    reason = next((reason for _, reason in outcomes if reason is not None), None)
    if reason is not None:
        raise CheckpointError(reason)
    return [result for result, _ in outcomes]
