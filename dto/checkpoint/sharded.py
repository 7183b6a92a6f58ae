"""Model and optimizer of which each rank holds a part: what it writes, and what it takes back.

Names, shapes and meta are those of `state.py`: any strategy, on any number of ranks, reads what any
other wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.state import MODEL, OPTIM, model_values, refuse, same_form
from dto.checkpoint.tree import pack, unpack
from dto.errors import CheckpointError

_STEP = "step"
"""The one entry of an optimizer's state that is never element by element."""


@dataclass(frozen=True)
class Part:
    """Elements [begin, end) of the flattened parameter `name`, of `shape` in the whole model.

    They lie at [at, at + end - begin) of a flattened local tensor.
    """

    name: str
    shape: tuple[int, ...]
    begin: int
    end: int
    at: int = 0

    def of(self, local: torch.Tensor) -> torch.Tensor:
        """This part of a local tensor, flat; a copy where the tensor has gaps in its memory."""
        return local.detach().reshape(-1)[self.at : self.at + self.end - self.begin]


@dataclass(frozen=True)
class Held:
    """A local tensor, the very one that this rank's optimizer steps, and what of the model it is.

    `replicas`: the ranks that hold the same values, of which the lowest writes; none: only this.
    A tensor whose parts have different replicas is held several times.
    """

    tensor: torch.Tensor
    parts: tuple[Part, ...]
    replicas: tuple[int, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Elements [begin, end) of a flattened tensor of the checkpoint; `data` is flat."""

    name: str
    shape: tuple[int, ...]
    begin: int
    data: torch.Tensor
    replicas: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.begin + self.data.numel()


@dataclass(frozen=True)
class Outline:
    """The whole model before it was cut: shape and dtype by name, and each group's parameters."""

    forms: Mapping[str, torch.Tensor]
    """Tensors on the device "meta", for shape and dtype alone."""
    groups: Sequence[Sequence[str]] = field(default_factory=list)

    @staticmethod
    def of(model: nn.Module, groups: Sequence[Sequence[str]]) -> Outline:
        forms = {
            name: torch.empty(value.shape, dtype=value.dtype, device="meta")
            for name, (_, value) in model_values(model).items()
            if isinstance(value, torch.Tensor)
        }
        return Outline(forms, groups)


def capture_held(
    held: Sequence[Held], others: Mapping[str, torch.Tensor], optimizer: Optimizer, rank: int
) -> tuple[list[Piece], dict[str, Any]]:
    """This rank's pieces, and the state's meta as far as it knows it (see `merge_meta`).

    `others` are values of the model that nobody cuts, such as buffers.
    """
    pieces = [
        Piece(MODEL + name, tuple(value.shape), 0, value.detach().reshape(-1), (rank,))
        for name, value in others.items()
    ]
    state: dict[str, Any] = {}
    for one in held:
        replicas = one.replicas or (rank,)
        if min(replicas) != rank:
            continue
        for part in one.parts:
            pieces.append(_piece(MODEL + part.name, part, one.tensor, replicas))
        for key, value in optimizer.state.get(one.tensor, {}).items():
            for part in one.parts:
                named = f"{OPTIM}{part.name}/{key}"
                rows = state.setdefault(part.name, {})
                rows[key] = _capture_state(named, key, value, one, part, replicas, pieces)
    return pieces, {"model": {}, "state": state}


def _piece(name: str, part: Part, local: torch.Tensor, replicas: tuple[int, ...]) -> Piece:
    return Piece(name, part.shape, part.begin, part.of(local), replicas)


def _capture_state(
    name: str,
    key: str,
    value: Any,
    one: Held,
    part: Part,
    replicas: tuple[int, ...],
    pieces: list[Piece],
) -> Any:
    if not isinstance(value, torch.Tensor):
        return pack(value, name, {})
    if key != _STEP and value.shape == one.tensor.shape:
        pieces.append(_piece(name, part, value, replicas))
    elif value.numel() != 1:
        raise CheckpointError(
            f"the optimizer's {key} of {part.name} has shape {tuple(value.shape)}: only states"
            " of the parameter's own shape, or of one element, can be saved in parts"
        )
    elif part.begin == 0:
        pieces.append(Piece(name, tuple(value.shape), 0, value.detach().reshape(-1), replicas))
    return {"__tensor__": name}


def merge_meta(
    metas: Iterable[Mapping[str, Any]],
    optimizer: Optimizer,
    groups: Sequence[Sequence[str]],
    tensors: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """Meta of the whole from everybody's; tensors among the groups' values go into `tensors`."""
    packed = []
    for number, (names, group) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        values = {key: value for key, value in group.items() if key != "params"}
        kept = pack(values, f"{OPTIM}#group{number}", tensors)
        packed.append({"params": list(names), "values": kept})
    state: dict[str, Any] = {}
    for meta in metas:
        for name, row in meta["state"].items():
            state.setdefault(name, {}).update(row)
    return {"model": {}, "class": type(optimizer).__name__, "groups": packed, "state": state}


def restore_held(
    held: Sequence[Held],
    others: Mapping[str, torch.Tensor],
    optimizer: Optimizer,
    outline: Outline,
    tensors: Mapping[str, torch.Tensor],
    meta: Mapping[str, Any],
) -> None:
    """Put this rank's part of a checkpoint back; strict: every name and shape of the whole."""
    _check(outline, tensors, meta)
    with torch.no_grad():
        for name, value in others.items():
            value.copy_(tensors[MODEL + name])
        for one in held:
            flat = one.tensor.detach().reshape(-1)
            for part in one.parts:
                saved = tensors[MODEL + part.name].reshape(-1)
                part.of(flat).copy_(saved[part.begin : part.end])
            if flat.data_ptr() != one.tensor.data_ptr():
                one.tensor.copy_(flat.view(one.tensor.shape))
    for group, saved_group in zip(optimizer.param_groups, meta["groups"], strict=True):
        group.update(unpack(saved_group["values"], tensors))
    optimizer.state.clear()
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for one in held:
        if id(one.tensor) in stepped:
            _restore_state(optimizer, one, tensors, meta["state"])


def _check(
    outline: Outline, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> None:
    if "groups" not in meta:
        raise CheckpointError("the checkpoint holds no optimizer state: load the model alone")
    saved = {name[len(MODEL) :] for name in tensors if name.startswith(MODEL)}
    refuse("model", outline.forms.keys() - saved, saved - outline.forms.keys())
    for name, form in outline.forms.items():
        same_form(f"model tensor {name}", tensors[MODEL + name], form)
    here = [set(group) for group in outline.groups]
    there = [set(group["params"]) for group in meta["groups"]]
    ours, theirs = set[str]().union(*here), set[str]().union(*there)
    refuse("optimizer", ours - theirs, theirs - ours)
    if here != there:
        raise CheckpointError("the checkpoint's optimizer groups its parameters differently")


def _restore_state(
    optimizer: Optimizer,
    one: Held,
    tensors: Mapping[str, torch.Tensor],
    states: Mapping[str, Any],
) -> None:
    """Of one local tensor; what no step has touched yet begins with zeros."""
    for part in one.parts:
        if part.name not in states:
            continue
        found = optimizer.state[one.tensor]
        for key, packed in states[part.name].items():
            value = unpack(packed, tensors)
            if not isinstance(value, torch.Tensor):
                found.setdefault(key, value)
            elif key == _STEP or tuple(value.shape) != part.shape:
                found.setdefault(key, value.clone())
            else:
                if key not in found:
                    found[key] = torch.zeros_like(
                        one.tensor, dtype=value.dtype, memory_format=torch.contiguous_format
                    )
                local = found[key]
                part.of(local).copy_(value.reshape(-1)[part.begin : part.end])


def as_state_dict(
    tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(model, optimizer) as torch's own `state_dict()` gives them."""
    model = {n[len(MODEL) :]: tensor for n, tensor in tensors.items() if n.startswith(MODEL)}
    number = {name: n for n, name in enumerate(sum((g["params"] for g in meta["groups"]), []))}
    groups = [
        {**unpack(group["values"], tensors), "params": [number[n] for n in group["params"]]}
        for group in meta["groups"]
    ]
    state = {number[name]: unpack(row, tensors) for name, row in meta["state"].items()}
    return model, {"state": state, "param_groups": groups}
