"""Model and optimizer as named tensors plus JSON, and back, with no name guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.torch_file import plain_name
from dto.checkpoint.tree import pack, unpack
from dto.errors import CheckpointError

MODEL, OPTIM = "model/", "optim/"


def capture(
    model: nn.Module, optimizer: Optimizer | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by global name, and the rest as JSON with parameters called by name.

    The tensors are the living ones, not copies: write or clone them before the next step.
    """
    tensors: dict[str, torch.Tensor] = {}
    rest: dict[str, Any] = {"model": {}}
    for name, (_, value) in model_values(model).items():
        if isinstance(value, torch.Tensor):
            tensors[MODEL + name] = value.detach()
        else:  # what a module's get_extra_state() returned
            rest["model"][name] = pack(value, MODEL + name, tensors)
    if optimizer is not None:
        rest.update(_capture_optimizer(model, optimizer, tensors))
    return tensors, rest


def restore(
    model: nn.Module,
    optimizer: Optimizer | None,
    tensors: Mapping[str, torch.Tensor],
    optimizer_meta: Mapping[str, Any],
) -> None:
    """Put a captured state into model and optimizer; strict: every name, shape and dtype."""
    _restore_model(model, tensors, optimizer_meta.get("model", {}))
    if optimizer is not None:
        _restore_optimizer(model, optimizer, tensors, optimizer_meta)


def model_values(model: nn.Module) -> dict[str, tuple[list[str], Any]]:
    """Each distinct value once: global name -> (all its state_dict keys, value)."""
    values: dict[str, tuple[list[str], Any]] = {}
    seen: dict[int, str] = {}
    for key, value in model.state_dict(keep_vars=True).items():
        first = seen.get(id(value)) if isinstance(value, torch.Tensor) else None
        if first is not None:  # tied weights
            values[first][0].append(key)
            continue
        name = plain_name(key)
        seen[id(value)] = name
        values[name] = ([key], value)
    return values


def _restore_model(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], extra: Mapping[str, Any]
) -> None:
    wanted = model_values(model)
    tensor_names = {n for n, (_, value) in wanted.items() if isinstance(value, torch.Tensor)}
    packed = set(_tensor_names(extra))
    saved = {n[len(MODEL) :] for n in tensors if n.startswith(MODEL) and n not in packed}
    # extra state may be a tensor in one version of a module and a dict in another
    refuse("model", tensor_names - saved, saved - tensor_names)
    state: dict[str, Any] = {}
    for name, (keys, value) in wanted.items():
        if name in tensor_names:
            loaded: Any = tensors[MODEL + name]
            same_form(f"model tensor {name}", loaded, value)
        elif name in extra:
            loaded = unpack(extra[name], tensors)
        else:
            raise CheckpointError(f"the checkpoint has no extra state for {name}")
        state.update(dict.fromkeys(keys, loaded))
    model.load_state_dict(state)


def refuse(what: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    missing, unexpected = sorted(missing), sorted(unexpected)
    if not missing and not unexpected:
        return
    parts = []
    if missing:
        parts.append(f"lacks {_some(missing)}")
    if unexpected:
        parts.append(f"has {_some(unexpected)}, unknown to this {what}")
    raise CheckpointError(
        f"the checkpoint {' and '.join(parts)}: load it with the {what} that it was saved from"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def same_form(what: str, saved: torch.Tensor, wanted: torch.Tensor) -> None:
    for word, old, new in (
        ("shape", tuple(saved.shape), tuple(wanted.shape)),
        ("dtype", saved.dtype, wanted.dtype),
    ):
        if old != new:
            raise CheckpointError(f"{what} has {word} {old} in the checkpoint but {new} here")


def _tensor_names(packed: Any) -> Iterable[str]:
    if isinstance(packed, list):
        for item in packed:
            yield from _tensor_names(item)
    elif isinstance(packed, dict):
        if "__tensor__" in packed:
            yield packed["__tensor__"]
        for item in packed.values():
            yield from _tensor_names(item)


def parameter_names(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """The name of each optimizer parameter, by group; ones outside the model by place."""
    known = {id(p): plain_name(name) for name, p in model.named_parameters()}
    return [
        [known.get(id(p), f"#{g}.{n}") for n, p in enumerate(group["params"])]
        for g, group in enumerate(optimizer.param_groups)
    ]


def _capture_optimizer(
    model: nn.Module, optimizer: Optimizer, tensors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    saved = optimizer.state_dict()
    groups: list[dict[str, Any]] = []
    by_index: dict[int, str] = {}
    for number, (names, group) in enumerate(
        zip(parameter_names(model, optimizer), saved["param_groups"], strict=True)
    ):
        by_index.update(zip(group["params"], names, strict=True))
        values = {key: value for key, value in group.items() if key != "params"}
        packed = pack(values, f"{OPTIM}#group{number}", tensors)
        groups.append({"params": names, "values": packed})
    state = {
        by_index[index]: pack(value, OPTIM + by_index[index], tensors)
        for index, value in saved["state"].items()
    }
    return {"class": type(optimizer).__name__, "groups": groups, "state": state}


def _restore_optimizer(
    model: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, torch.Tensor],
    meta: Mapping[str, Any],
) -> None:
    if "groups" not in meta:
        raise CheckpointError("the checkpoint holds no optimizer state: load the model alone")
    names = parameter_names(model, optimizer)
    here = {name for group in names for name in group}
    refuse("optimizer", here - (then := _saved_names(meta)), then - here)
    if [set(group) for group in names] != [set(group["params"]) for group in meta["groups"]]:
        raise CheckpointError("the checkpoint's optimizer groups its parameters differently")
    index = {name: n for n, name in enumerate(name for group in names for name in group)}
    groups = [
        {**unpack(saved["values"], tensors), "params": [index[name] for name in group]}
        for group, saved in zip(names, meta["groups"], strict=True)
    ]
    state = {index[name]: unpack(value, tensors) for name, value in meta["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    _keep_dtypes(optimizer, state)


def _saved_names(meta: Mapping[str, Any]) -> set[str]:
    return {name for group in meta["groups"] for name in group["params"]}


def _keep_dtypes(optimizer: Optimizer, state: Mapping[int, Any]) -> None:
    """torch casts state to the parameter's dtype; fp32 moments of bf16 weights stay fp32 here."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state.items():
        for key, value in values.items():
            now = optimizer.state[parameters[index]].get(key)
            if isinstance(now, torch.Tensor) and now.dtype != value.dtype:
                optimizer.state[parameters[index]][key] = value.to(now.device)
