"""The same layers computed by torch's DTensor, which finds out itself what to send.

The parameters stay this rank's plain parts, as optimizers and checkpoints know them; DTensors are
made of them in forward. dto's own layers are compared with these.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.functional import linear

from dto.errors import ConfigError
from dto.runtime.tensor.layers import SharedLinear
from dto.runtime.transport import Transport
from dto.runtime.transport.torch_transport import TorchTransport


class TorchColumnLinear(SharedLinear):
    """[..., inputs] on every rank to [..., outputs / n]."""

    def forward(self, input: Tensor) -> Tensor:
        if self.group.transport.size == 1:
            return linear(input, self.weight, self.bias)
        mesh = self.group.mesh
        weight = DTensor.from_local(self.weight, mesh, [Shard(0)])
        bias = None if self.bias is None else DTensor.from_local(self.bias, mesh, [Shard(0)])
        return _local(linear(DTensor.from_local(input, mesh, [Replicate()]), weight, bias))


class TorchRowLinear(SharedLinear):
    """[..., inputs / n] to [..., outputs] on every rank."""

    def forward(self, input: Tensor) -> Tensor:
        if self.group.transport.size == 1:
            return linear(input, self.weight, self.bias)
        self.check_inputs(input)
        mesh = self.group.mesh
        x = DTensor.from_local(input, mesh, [Shard(input.dim() - 1)])
        product: Any = linear(x, DTensor.from_local(self.weight, mesh, [Shard(1)]))
        y = _local(product.redistribute(mesh, [Replicate()]))
        return y if self.bias is None else y + self.bias


def _local(value: Any) -> Tensor:
    found: Tensor = value.to_local()
    return found


def mesh_of(transport: Transport, model: nn.Module) -> DeviceMesh | None:
    """What DTensor calls these ranks; None for one rank alone.

    Raises:
        ConfigError: they do not talk through torch.distributed.
    """
    if transport.size == 1:
        return None
    if not isinstance(transport, TorchTransport):
        raise ConfigError(
            f"backend torch needs torch.distributed, and this is {transport.name}: use backend dto"
        )
    group: Any = transport.group or dist.group.WORLD
    return DeviceMesh.from_group(group, next(model.parameters()).device.type)
