"""The same layers cut by torch's DTensor: dto's own are compared with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.parallel.style import ParallelStyle

from dto.errors import ConfigError
from dto.runtime.tensor.plan import Role
from dto.runtime.transport import Transport
from dto.runtime.transport.torch_transport import TorchTransport


def share_layers(model: nn.Module, roles: Mapping[str, Role], transport: Transport) -> None:
    """Cut the layers that `roles` names; parameters that are cut become DTensors."""
    other = next((role.kind for role in roles.values() if not role.cuts()), None)
    if other is not None:
        raise ConfigError(f"backend torch knows no {other!r} in a tensor plan: use backend dto")
    if transport.size == 1:
        return
    if not isinstance(transport, TorchTransport):
        raise ConfigError(
            f"backend torch needs torch.distributed, and this is {transport.name}: use backend dto"
        )
    device = next(model.parameters()).device
    group = transport.group or dist.group.WORLD
    mesh = DeviceMesh.from_group(group, device.type)  # type: ignore[arg-type]
    styles: dict[str, ParallelStyle] = {}
    for name, role in roles.items():
        if role.blocks > 1:
            _lay_out(model.get_submodule(name), role, transport.size)
        styles[name] = ColwiseParallel() if role.kind == "column" else RowwiseParallel()
    parallelize_module(model, mesh, styles)


def _lay_out(layer: nn.Module, role: Role, size: int) -> None:
    """DTensor cuts in one piece a rank: put side by side the rows that a rank is to have."""
    with torch.no_grad():
        for leaf, parameter in layer.named_parameters():
            cut = role.cuts()[leaf]
            pieces = [cut.take(parameter, rank, size) for rank in range(size)]
            parameter.copy_(torch.cat(pieces, cut.dim))
