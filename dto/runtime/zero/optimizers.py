"""The user's optimizer, stepping this rank's pieces instead of the model's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.sharded import Held
from dto.errors import ConfigError
from dto.runtime.zero.layout import NO_GROUP

ELEMENTWISE = (
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
)
"""Those of torch whose step treats each element by itself, so that any part can be stepped."""


def require_elementwise(optimizer: Optimizer, elementwise: bool) -> None:
    """Refuse an optimizer that looks at whole parameters, or may.

    Raises:
        ConfigError: it is one of torch's others, or unknown and not vouched for.
    """
    fine = tuple(getattr(torch.optim, name) for name in ELEMENTWISE)
    name = type(optimizer).__name__
    is_torchs = type(optimizer).__module__.startswith("torch.optim")
    if isinstance(optimizer, fine) or (elementwise and not is_torchs):
        return
    reason = (
        "looks at whole parameters or at all of them at once"
        if is_torchs
        else "is unknown: give elementwise=True if it treats each element by itself"
    )
    raise ConfigError(
        f"ZeRO cuts parameters into flat pieces, and {name} {reason}; fine are"
        f" {', '.join(ELEMENTWISE)}"
    )


def group_numbers(model: nn.Module, optimizer: Optimizer) -> dict[int, int]:
    """The optimizer's group of each parameter of the model, by id.

    Raises:
        ConfigError: the optimizer steps something else, too.
    """
    groups = {
        id(param): number
        for number, group in enumerate(optimizer.param_groups)
        for param in group["params"]
    }
    known = {id(param) for param in model.parameters()}
    if groups.keys() - known:
        raise ConfigError(
            "the optimizer holds parameters that the model has not: make it of model.parameters()"
        )
    return {id(param): groups.get(id(param), NO_GROUP) for param in model.parameters()}


def repoint(
    optimizer: Optimizer,
    pieces: Iterable[tuple[int, Held]],
    params: Mapping[str, nn.Parameter],
) -> None:
    """Put (group, piece) in the place of whole parameters, with their state; in the same lists."""
    found: list[list[torch.Tensor]] = [[] for _ in optimizer.param_groups]
    states = {}
    for group, held in pieces:
        found[group].append(held.tensor)
        state = _cut_state(optimizer, held, params)
        if state:
            states[held.tensor] = state
    optimizer.state.clear()
    optimizer.state.update(states)
    for group_values, mine in zip(optimizer.param_groups, found, strict=True):
        group_values["params"][:] = mine


def _cut_state(
    optimizer: Optimizer, held: Held, params: Mapping[str, nn.Parameter]
) -> dict[str, Any]:
    """State of a piece from that of the parameters it is of; what had none begins with zeros."""
    state: dict[str, Any] = {}
    for part in held.parts:
        for key, value in optimizer.state.get(params[part.name], {}).items():
            if not isinstance(value, torch.Tensor):
                state.setdefault(key, value)
                continue
            if key == "step" or tuple(value.shape) != part.shape:
                state.setdefault(key, value.clone())
                continue
            if key not in state:
                state[key] = torch.zeros_like(held.tensor, dtype=value.dtype)
            saved = value.detach().reshape(-1)[part.begin : part.end]
            part.of(state[key]).copy_(saved)
    return state
