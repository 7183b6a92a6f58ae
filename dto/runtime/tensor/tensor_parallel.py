"""Layers that several ranks compute together, each with a part of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from dto.checkpoint.sharded import Held
from dto.errors import ConfigError
from dto.runtime.data_parallel import require_trainable
from dto.runtime.tensor.alike import start_alike, watch_batches
from dto.runtime.tensor.cuts import Cut, whole_part
from dto.runtime.tensor.layers import (
    ColumnLinear,
    Group,
    RowLinear,
    SharedLinear,
    split_sequence,
    sum_gradient,
)
from dto.runtime.tensor.norms import clip, spread_overflow
from dto.runtime.tensor.plan import check_roles, following, is_inside, read_plan
from dto.runtime.transport import Transport, broadcast_all, join_world
from dto.runtime.transport.local import LocalTransport

BACKENDS = ("dto", "torch")


class TensorParallel:
    """Cuts nn.Linear layers of a model over ranks, as Megatron does (arXiv 1909.08053).

    The model stays the object that it was, its layers and parameters too, so an optimizer may be
    made before, if it has not stepped yet. Every rank builds the same model, starts as the first
    one has it, and is given the same batches; each computes the same loss, and gradients are those
    of one process: there is nothing to average. With data parallelism beside it, every group of
    ranks here is one replica: `DataParallel(model, transport_of_the_other_axis)`.

    A plan gives modules, by patterns of their names (fnmatch, in which * matches dots as well),

        "column"         an nn.Linear whose outputs are shared out
        "column:3"       one of 3 equal blocks, such as a fused query, key and value: each is cut
        "column:3x16"    the same, and 16 outputs (a head) stay together
        "row"            an nn.Linear that takes what a column layer made, and adds up over ranks
        "sum"            its parameters work on cut values between the two (a norm within heads):
                         their gradients are added up over ranks
        "sequence"       with `sequence_parallel`, it computes on a piece of the sequence, which is
                         dimension -2 of its first argument, wherever it is not between the two
                         (Korthikanti et al., arXiv 2205.05198)

    All other parameters are held by every rank, with equal gradients.

    Dropout: all ranks go on with the first one's generator, so that what they all hold is dropped
    alike. Heads, or pieces of a sequence, of different ranks are then dropped by equal masks: no
    gradient is wrong, but the masks are less random than in one process, and not the same.

    Args:
        model: its parameters may be on a GPU if the transport can send from there.
        plan: {pattern: role}; what the model's own `tensor_plan()` returns, if not given.
        transport: the ranks that share the layers; all if not given.
        sequence_parallel: follow the plan's "sequence" as well.
        backend: "torch" has DTensor compute the same layers; it cuts no sequence.

    Raises:
        ConfigError: the plan does not fit the model, or its sizes the ranks.
        WorldError: ranks have different models or plans; or, as the model is called, batches.
    """

    name = "tensor"

    def __init__(
        self,
        model: nn.Module,
        plan: Mapping[str, str] | None = None,
        *,
        transport: Transport | None = None,
        sequence_parallel: bool = False,
        backend: str = "dto",
    ) -> None:
        if backend not in BACKENDS:
            names = ", ".join(BACKENDS)
            raise ConfigError(f"there is no tensor backend {backend!r}: use one of {names}")
        self.model, self._device = model, require_trainable(model)
        self._roles = following(read_plan(model, plan), sequence_parallel)
        self._owned = None if transport else join_world(self._device)
        self.transport: Transport = transport or self._owned  # type: ignore[assignment]
        agreed = f"a plan of {self._roles}, backend {backend}"
        start_alike(self.transport, model, self._device, agreed)
        check_roles(model, self._roles, self.transport.size)
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self._cuts = self._find_cuts()
        self._group = Group(self.transport)
        self._hooks: list[RemovableHandle] = []
        self._share_layers(self._kinds(backend))
        self._hooks.append(watch_batches(model, self._group))

    # setting up

    def _find_cuts(self) -> dict[str, Cut]:
        """How parameters are cut, by name; those that stay whole are left out."""
        return {
            f"{name}.{leaf}": cut
            for name, role in self._roles.items()
            for leaf, cut in role.cuts().items()
        }

    def _kinds(self, backend: str) -> dict[str, type[SharedLinear]]:
        if backend == "dto":
            return {"column": ColumnLinear, "row": RowLinear}
        from dto.runtime.tensor.torch_twin import TorchColumnLinear, TorchRowLinear, mesh_of

        if any(role.kind == "sequence" for role in self._roles.values()):
            raise ConfigError("backend torch does not cut sequences: use backend dto")
        self._group.mesh = mesh_of(self.transport, self.model)
        return {"column": TorchColumnLinear, "row": TorchRowLinear}

    def _share_layers(self, kinds: Mapping[str, type[SharedLinear]]) -> None:
        regions = [name for name, role in self._roles.items() if role.kind == "sequence"]
        for name, role in self._roles.items():
            if role.cuts():
                layer = self.model.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                is_split = is_inside(name, regions)
                kinds[role.kind].take_over(layer, self._group, name, is_split)
        for name in regions:
            self._hooks += split_sequence(self.model.get_submodule(name), name, self._group)
        self._sum_gradients(regions)
        rank, size = self.transport.rank, self.transport.size
        for name, parameter in self.model.named_parameters():
            if name in self._cuts:
                _give(parameter, self._cuts[name].take(parameter.detach(), rank, size))
                parameter.grad = None

    def _sum_gradients(self, regions: list[str]) -> None:
        """Follow the parameters that every rank holds whole and uses on its own piece."""
        summed = regions + [name for name, role in self._roles.items() if role.kind == "sum"]
        inside: dict[nn.Parameter, str] = {}
        outside: set[nn.Parameter] = set()
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if name in self._cuts:
                continue
            if is_inside(name, summed):
                inside[parameter] = name
            else:
                outside.add(parameter)
        for parameter, name in inside.items():
            if parameter in outside:
                raise ConfigError(f"{name} is used both inside and outside {' and '.join(summed)}")
            if parameter.requires_grad:
                self._hooks.append(sum_gradient(parameter, self._group))

    # what the trainer asks of a strategy

    def set_weight(self, own: int, total: int) -> None:
        """All ranks have the whole batch: nothing to weigh."""

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Nothing: gradients are whole after every backward."""
        return contextlib.nullcontext()

    def synchronise(self) -> None:
        """Nothing: gradients are whole after every backward."""

    def take_control(self) -> None:
        """Nothing rides along."""
        return None

    def broadcast_buffers(self) -> None:
        """Give every rank the buffers of rank 0, such as BatchNorm's running means."""
        broadcast_all(self.transport, [value.detach() for value in self.model.buffers()])

    def clip_grad_norm(self, max_norm: float) -> torch.Tensor:
        """Scale gradients so that the norm of all of them is at most `max_norm`; what it was."""
        cut: list[torch.Tensor] = []
        shared: list[torch.Tensor] = []
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                (cut if name in self._cuts else shared).append(parameter.grad)
        return clip(cut, shared, max_norm, self.transport, self._device)

    def agree_on_overflow(self) -> None:
        """Where one rank's gradients overflowed, let all ranks' be infinite.

        Before `scaler.unscale_` or `scaler.step` of a GradScaler, so that all skip the same steps.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        spread_overflow(gradients, self.transport, self._device)

    def held(self) -> list[Held]:
        """What this rank has of every parameter; those that are not cut, all ranks have."""
        rank, size = self.transport.rank, self.transport.size
        everybody = tuple(_global_rank(self.transport, rank) for rank in range(size))
        found = []
        for name, parameter in self.model.named_parameters():
            if name in self._cuts and size > 1:
                parts = self._cuts[name].parts(name, self._shapes[name], rank, size)
                found.append(Held(parameter, parts))
            else:
                found.append(Held(parameter, whole_part(name, parameter), everybody))
        return found

    def reload(self) -> None:
        """Nothing: a rank's tensors are the parameters themselves."""

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every rank has the whole weights, and the model runs on each rank alone.

        All ranks enter together. What is written to parameters inside is kept.
        """
        rank, size = self.transport.rank, self.transport.size
        parts = self._put_together()
        try:
            yield
        finally:
            self._group.transport = self.transport
            for cut, parameter, part in parts:
                part.copy_(cut.take(parameter.data, rank, size))
                _give(parameter, part)

    def unshard(self) -> None:
        """Training is over: leave every rank the whole model, of plain layers, and nothing else."""
        self._put_together()
        for parameter in self.model.parameters():
            parameter.grad = None
        for hook in self._hooks:
            hook.remove()
        for name, role in self._roles.items():
            if role.cuts():
                layer = self.model.get_submodule(name)
                assert isinstance(layer, SharedLinear)
                layer.give_back()

    def _put_together(self) -> list[tuple[Cut, nn.Parameter, torch.Tensor]]:
        """Make all parameters whole; what they were before."""
        named = self.model.named_parameters()
        parts = [(self._cuts[name], p, p.data) for name, p in named if name in self._cuts]
        for cut, parameter, part in parts:
            _give(parameter, cut.join(self._gather(part)))
        self._group.transport = LocalTransport()
        return parts

    def close(self) -> None:
        """Leave the world, where this joined it."""
        if self._owned is not None:
            self._owned.close()

    def _gather(self, part: torch.Tensor) -> list[torch.Tensor]:
        flat = part.new_empty(self.transport.size * part.numel())
        self.transport.all_gather_async(flat, part.reshape(-1)).wait()
        return list(flat.view(self.transport.size, *part.shape).unbind(0))


def _give(parameter: nn.Parameter, value: torch.Tensor) -> None:
    """Let `parameter` have another shape; it stays the object that optimizers know.

    Of another dtype for a moment: autograd would go by the old shape where a graph is still held.
    """
    parameter.data = value.to(torch.float16 if value.dtype != torch.float16 else torch.float32)
    parameter.data = value


def _global_rank(transport: Transport, rank: int) -> int:
    known = getattr(transport, "global_rank", None)
    return known(rank) if known else rank
