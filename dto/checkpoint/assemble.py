"""Whole tensors from the flat pieces that ranks wrote, whatever strategy cut them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch

from dto.checkpoint.manifest import TensorEntry
from dto.errors import CheckpointError


def uncovered(entries: Sequence[TensorEntry], files: Collection[str]) -> str | None:
    """None if the pieces make up every tensor completely, else which one they leave open."""
    for name, pieces in _by_name(entries).items():
        for piece in pieces:
            if piece.file not in files:
                return f"tensor {name} lies in {piece.file}, which the manifest does not list"
        position = 0
        for piece in pieces:
            if piece.range[0] > position:
                return f"tensor {name} lacks its elements from {position} to {piece.range[0]}"
            position = max(position, piece.range[1])
        if position != math.prod(pieces[0].shape):
            return f"tensor {name} ends at element {position} of {math.prod(pieces[0].shape)}"
    return None


def assemble(
    entries: Sequence[TensorEntry], files: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Tensors by name in the shape the manifest gives them."""
    whole: dict[str, torch.Tensor] = {}
    for name, pieces in _by_name(entries).items():
        shape, numel = pieces[0].shape, math.prod(pieces[0].shape)
        if pieces[0].range == (0, numel):
            whole[name] = _piece(pieces[0], files).reshape(shape)
            continue
        flat: torch.Tensor | None = None
        for piece in pieces:
            data = _piece(piece, files)
            if flat is None:
                flat = torch.empty(numel, dtype=data.dtype)
            flat[piece.range[0] : piece.range[1]] = data
        assert flat is not None
        whole[name] = flat.reshape(shape)
    return whole


def _by_name(entries: Sequence[TensorEntry]) -> dict[str, list[TensorEntry]]:
    found: dict[str, list[TensorEntry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.range[0], -entry.range[1])):
        found.setdefault(entry.name, []).append(entry)
    return {entry.name: found[entry.name] for entry in entries}


def _piece(entry: TensorEntry, files: Mapping[str, Mapping[str, torch.Tensor]]) -> torch.Tensor:
    data = files[entry.file].get(entry.name)
    length = entry.range[1] - entry.range[0]
    if data is None or data.numel() != length or str(data.dtype) != f"torch.{entry.dtype}":
        raise CheckpointError(f"{entry.file} does not hold {entry.name} as the manifest says")
    return data.flatten()
