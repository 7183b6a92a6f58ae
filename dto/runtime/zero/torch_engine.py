"""The same units sharded by torch's `fully_shard`: dto's engine is compared with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp import OffloadPolicy as NoOffloadPolicy
from torch.optim import Optimizer

from dto.checkpoint.sharded import Held, Part
from dto.errors import ConfigError
from dto.runtime.transport import Transport, broadcast_all
from dto.runtime.zero.block import Memory
from dto.runtime.zero.controls import Controls
from dto.runtime.zero.hooks import Hook, tensors_in
from dto.runtime.zero.norms import local, local_grads, spread_overflow
from dto.runtime.zero.optimizers import group_numbers
from dto.runtime.zero.unit import plain
from dto.runtime.zero.units import UnitPlan


class TorchEngine:
    """Stage 3, and stage 2 by gathering once for forward and backward.

    The optimizer steps the local tensors of torch's DTensors: plain pieces, as dto's own are.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        plans: Sequence[UnitPlan],
        memory: Memory,
        transport: Transport,
        controls: Controls,
    ) -> None:
        if memory.stage == 1:
            raise ConfigError("backend torch has stages 2 and 3: for stage 1 use backend dto")
        if not hasattr(transport, "group"):
            raise ConfigError(
                f"backend torch needs torch.distributed, not {transport.name}: use backend dto"
            )
        if optimizer.state:
            raise ConfigError("backend torch takes an optimizer before its first step")
        self._model, self._optimizer, self._transport = model, optimizer, transport
        self._controls, self._memory = controls, memory
        self.weight, self.is_synchronised = 1.0, True
        self.leaves_gradients = True  # as torch's DDP does
        self._is_running, self._is_whole = False, False
        names = {id(param): name for name, param in model.named_parameters()}
        groups = group_numbers(model, optimizer)
        chosen = {names[key]: number for key, number in groups.items()}
        broadcast_all(transport, [param.detach() for param in model.parameters()])
        self._shard(plans, transport)
        self._take_pieces(chosen)
        model.register_forward_pre_hook(Hook(model, self._before_root))
        model.register_forward_hook(Hook(model, self._after_root))

    def _shard(self, plans: Sequence[UnitPlan], transport: Any) -> None:
        device = next(self._model.parameters()).device
        group: Any = transport.group if transport.group is not None else dist.group.WORLD
        exact = next(self._model.parameters()).dtype
        precision = self._memory.precision
        options: dict[str, Any] = {
            "mesh": DeviceMesh.from_group(group, device.type),
            "reshard_after_forward": self._memory.stage == 3,
            "mp_policy": MixedPrecisionPolicy(param_dtype=precision),
            "offload_policy": CPUOffloadPolicy() if self._memory.offload else NoOffloadPolicy(),
        }
        for plan in plans[1:]:
            fully_shard(plan.module, **options)
        if precision is not None:
            options["mp_policy"] = MixedPrecisionPolicy(param_dtype=precision, output_dtype=exact)
        fully_shard(self._model, **options)

    def _take_pieces(self, groups: dict[str, int]) -> None:
        self._params = dict(self._model.named_parameters())
        self._pieces = {
            name: nn.Parameter(local(param.detach()), requires_grad=param.requires_grad)
            for name, param in self._params.items()
        }
        for number, group in enumerate(self._optimizer.param_groups):
            group["params"][:] = [
                piece
                for name, piece in self._pieces.items()
                if groups[name] == number and piece.numel()
            ]

    # backward

    def _before_root(self, args: Any) -> None:
        if self._model.training and not self._is_whole:
            is_silent = not (self.is_synchronised and torch.is_grad_enabled())
            self._controls.before_forward(is_silent)

    def _after_root(self, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            for tensor in tensors_in(output):
                if tensor.requires_grad:
                    tensor.register_hook(self._before_backward)  # type: ignore[no-untyped-call]

    def _before_backward(self, grad: torch.Tensor) -> torch.Tensor:
        if not self._is_running:
            self._is_running = True
            _after_this_backward(lambda: _after_this_backward(self._finish))  # after torch's own
        return grad * self.weight if self.weight else torch.zeros_like(grad)

    @torch.no_grad()
    def _finish(self) -> None:
        self._is_running = False
        for name, param in self._params.items():
            if param.grad is None:
                continue
            grad, piece = local(param.grad), self._pieces[name]
            param.grad = None
            piece.grad = grad if piece.grad is None else piece.grad.add_(grad)
        if self.is_synchronised:
            self.synchronise()

    def synchronise(self) -> None:
        """Gradients were averaged by every backward: only the control values are missing."""
        self._controls.start()
        self._controls.finish()
        if self._memory.precision == torch.float16:
            spread_overflow(local_grads(self._optimizer), self._transport, self._controls.device)

    # what is kept

    def reload(self) -> None:
        """The pieces are the memory that torch gathers from."""

    def held(self) -> list[Held]:
        """torch cuts along the first dimension, rows rounded up."""
        found = []
        for name, piece in self._pieces.items():
            shape = tuple(self._params[name].shape)
            rows, width = -(-shape[0] // self._transport.size), piece[:1].numel()
            begin = min(self._transport.rank * rows * width, self._params[name].numel())
            if piece.numel():
                found.append(
                    Held(piece, (Part(plain(name), shape, begin, begin + piece.numel()),))
                )
        return found

    def nbytes(self) -> dict[str, int]:
        pieces = self._pieces.values()
        grads = [piece.grad for piece in pieces if piece.grad is not None]
        return {
            "parameters": sum(piece.nbytes for piece in pieces),
            "gradients": sum(grad.nbytes for grad in grads),
        }

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        self._gather()
        self._is_whole = True
        try:
            yield
        finally:
            self._is_whole = False
            for module in self._modules():
                module.reshard()
                module.set_reshard_after_forward(self._memory.stage == 3, recurse=False)

    def unshard(self) -> None:
        self._gather()

    def _gather(self) -> None:
        for module in self._modules():
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()

    def _modules(self) -> list[FSDPModule]:
        return [module for module in self._model.modules() if isinstance(module, FSDPModule)]


def _after_this_backward(act: Any) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(act)
