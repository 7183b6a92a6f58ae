"""The same gradients averaged by torch's DistributedDataParallel: dto's is compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dto.errors import ConfigError
from dto.runtime.transport import Transport
from dto.runtime.transport.torch_transport import TorchTransport


class TorchAveraging:
    """Wraps what happens around the model's forward, so that the model is called as ever.

    torch decides at forward whether backward sends, and every parameter must be used.
    """

    control: torch.Tensor | None = None
    is_counted = True

    def __init__(
        self, model: nn.Module, params: Sequence[nn.Parameter], transport: Transport
    ) -> None:
        if not isinstance(transport, TorchTransport):
            raise ConfigError(
                f"backend torch needs a process group of nccl or gloo, and this is"
                f" {transport.name}: use backend dto"
            )
        self.params, self.transport = list(params), transport
        self.is_synchronised = True
        self._ddp: Any = DistributedDataParallel(model, process_group=transport.group)

    @property
    def has_even_buffers(self) -> bool:
        """torch broadcasts them itself."""
        return True

    @has_even_buffers.setter
    def has_even_buffers(self, value: bool) -> None:
        return

    def before_forward(self, args: Any, kwargs: Any) -> Any:
        """What DistributedDataParallel.forward does before it calls the model."""
        self._ddp.require_backward_grad_sync = self.is_synchronised
        return self._ddp._pre_forward(*args, **kwargs)

    def after_forward(self, output: Any) -> Any:
        """And what it does then."""
        return self._ddp._post_forward(output)

    def close(self) -> None:
        """Let go of the model and its parameters."""
        self._ddp = None

    def finish(self) -> None:
        """Average what has accumulated; what no rank used keeps no gradient."""
        used = torch.tensor([float(p.grad is not None) for p in self.params])
        used = used.to(self.params[0].device)
        self.transport.all_reduce(used)
        for param, count in zip(self.params, used.tolist(), strict=True):
            if count:
                param.grad = torch.zeros_like(param) if param.grad is None else param.grad
                self.transport.all_reduce(param.grad)
                param.grad.div_(self.transport.size)
