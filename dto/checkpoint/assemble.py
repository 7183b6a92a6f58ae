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
            whole[name] = _stored(pieces[0], files, numel).reshape(shape)
            continue
        flat = torch.empty(numel, dtype=getattr(torch, pieces[0].dtype))
        for of_file in _by_file(pieces).values():
            lengths = [piece.range[1] - piece.range[0] for piece in of_file]
            data = _stored(of_file[0], files, sum(lengths))
            for piece, part in zip(of_file, torch.split(data, lengths), strict=True):
                flat[piece.range[0] : piece.range[1]] = part
        whole[name] = flat.reshape(shape)
    return whole


def _by_file(pieces: Sequence[TensorEntry]) -> dict[str, list[TensorEntry]]:
    """Pieces of one tensor in one file lie there one after another, in their order."""
    found: dict[str, list[TensorEntry]] = {}
    for piece in pieces:
        found.setdefault(piece.file, []).append(piece)
    return found


def _by_name(entries: Sequence[TensorEntry]) -> dict[str, list[TensorEntry]]:
    found: dict[str, list[TensorEntry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.range[0], -entry.range[1])):
        found.setdefault(entry.name, []).append(entry)
    return {entry.name: found[entry.name] for entry in entries}


def _stored(
    entry: TensorEntry, files: Mapping[str, Mapping[str, torch.Tensor]], length: int
) -> torch.Tensor:
    data = files[entry.file].get(entry.name)
    if data is None or data.numel() != length or str(data.dtype) != f"torch.{entry.dtype}":
        raise CheckpointError(f"{entry.file} does not hold {entry.name} as the manifest says")
    return data.flatten()
