"""What ranks that share layers must have alike: weights, generators and batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from dto.runtime.model_hook import ModelHook
from dto.runtime.sameness import describe_model, require_same
from dto.runtime.tensor.layers import Group
from dto.runtime.transport import Transport, broadcast_all

_WATCHED_CALLS = 3


def start_alike(transport: Transport, model: nn.Module, device: torch.device, plan: str) -> None:
    """Give all ranks the weights, buffers and random generators of the first one.

    Raises:
        WorldError: a rank has another model or plan.
    """
    require_same(transport, "another model or plan", [plan, *describe_model(model)])
    values = [*model.parameters(), *model.buffers()]
    broadcast_all(transport, [value.detach() for value in values])
    torch.set_rng_state(transport.all_gather_object(torch.get_rng_state())[0])
    if device.type == "cuda":
        state = transport.all_gather_object(torch.cuda.get_rng_state(device))[0]
        torch.cuda.set_rng_state(state, device)


def watch_batches(model: nn.Module, group: Group) -> RemovableHandle:
    """Have the first calls of `model` raise WorldError where ranks have different inputs.

    Nothing else would tell: a loader that shares samples out over all ranks trains, to nonsense.
    """
    calls = 0

    def before(args: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal calls
        if calls >= _WATCHED_CALLS or group.transport.size == 1:
            return
        calls += 1
        values = [*args, *named.values()]
        mine = [_describe(value) for value in values if isinstance(value, torch.Tensor)]
        require_same(group.transport, "another batch (ranks that share layers need one)", mine)

    hook = ModelHook(torch.compiler.disable(before))  # type: ignore[no-untyped-call]
    return model.register_forward_pre_hook(hook, with_kwargs=True)


def _describe(value: torch.Tensor) -> str:
    real = torch.view_as_real(value) if value.is_complex() else value
    total = real.detach().sum(dtype=torch.float64).item()
    return f"{list(value.shape)} {value.dtype} with the sum {total:.6g}"
