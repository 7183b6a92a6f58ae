"""One model spread over a mesh: tensor parallel inside, then pipeline, data parallel outside."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.sharded import Held, Outline, Part
from dto.checkpoint.state import parameter_names
from dto.errors import ConfigError
from dto.runtime.control import Control
from dto.runtime.data_parallel import DataParallel
from dto.runtime.mesh import Layout
from dto.runtime.owners import set_owner
from dto.runtime.pipeline import Pipeline
from dto.runtime.recipe import PRECISIONS, Recipe
from dto.runtime.sharding import stage_costs
from dto.runtime.shards import Cut
from dto.runtime.strategy import Strategy
from dto.runtime.tensor import TensorParallel
from dto.runtime.transport import Transport, broadcast_all
from dto.runtime.transport.local import LocalTransport

if TYPE_CHECKING:
    from dto.runtime.session import Session

log = logging.getLogger(__name__)


class Spread:
    """The strategy of a whole mesh, made of those of its axes; the session knows this one only.

    The model and the optimizer stay the user's objects: the optimizer steps what this rank holds.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        transport: Transport,
        layout: Layout,
        recipe: Recipe,
        outgoing: Callable[[], Control],
        criterion: Callable[..., torch.Tensor] | None,
    ) -> None:
        self.layout, self._transport = layout, transport
        self.model, self.optimizer = model, optimizer
        values = [*model.parameters(), *model.buffers()]
        broadcast_all(transport, [value.detach() for value in values])
        self._tensor = self._split_layers(model, recipe)
        self.pipeline = self._cut_layers(model, recipe, criterion)
        stage = self.pipeline.module if self.pipeline else model
        self._locals = dict(stage.named_parameters())
        self._inner = self._inner_held()
        self._data = self._join_replicas(stage, recipe, outgoing)
        set_owner(model, self)

    # building, from the inside out

    def _part(self, axis: str) -> Transport:
        groups = self.layout.mesh.groups(axis)
        if len(groups) == self._transport.size:  # each rank for itself: Horovod can do that, too
            return LocalTransport()
        return self._transport if len(groups) == 1 else self._transport.split(groups)

    def _split_layers(self, model: nn.Module, recipe: Recipe) -> TensorParallel | None:
        if self.layout.mesh.tp == 1:
            return None
        return TensorParallel(
            model,
            recipe.tensor_plan,
            transport=self._part("tp"),
            sequence_parallel=recipe.sequence_parallel,
            backend=recipe.implementation,
        )

    def _cut_layers(
        self, model: nn.Module, recipe: Recipe, criterion: Callable[..., torch.Tensor] | None
    ) -> Pipeline | None:
        if self.layout.mesh.pp == 1:
            return None
        if criterion is None:
            raise ConfigError(
                "a pipeline trains whole batches: use trainer.fit without a train_step_fn,"
                " or dto.Pipeline in your own loop"
            )
        pipeline = Pipeline(
            model,
            recipe.micro_batches or 2 * self.layout.mesh.pp,
            recipe.schedule,
            loss=criterion,
            costs=stage_costs(model, recipe.stages, self.layout.mesh.pp * recipe.chunks),
            transport=self._part("pp"),
            backend=recipe.implementation,
            autocast=PRECISIONS[recipe.precision],
            checkpoint_activations=recipe.activation_checkpointing,
        )
        pipeline.adopt(self.optimizer)
        return pipeline

    def _join_replicas(
        self, stage: nn.Module, recipe: Recipe, outgoing: Callable[[], Control]
    ) -> Strategy | None:
        transport = self._part("dp")
        if self.layout.zero_stage:
            from dto.runtime.zero import Zero
            from dto.runtime.zero.units import UNIT_BYTES

            return Zero(
                stage,
                self.optimizer,
                self.layout.zero_stage,
                transport=transport,
                outgoing=outgoing,
                units=recipe.units or UNIT_BYTES,
                backend=recipe.implementation,
            )
        if self.layout.data == "ps":
            from dto.runtime.parameter_server import ParameterServer

            return ParameterServer(
                stage,
                self.optimizer,
                recipe.server_mode,
                staleness=recipe.staleness,
                servers=recipe.servers,
                transport=transport,
                outgoing=outgoing,
            )
        if not any(param.requires_grad for param in stage.parameters()):
            return None
        if recipe.communication not in (None, "native"):
            from dto.runtime.collectives.patterned import Patterned

            transport = Patterned(transport, str(recipe.communication))
        return DataParallel(stage, transport, outgoing, backend=recipe.implementation)

    # the strategy

    @property
    def name(self) -> str:
        return self.layout.name

    def set_weight(self, own: int, total: int) -> None:
        if self._data is not None:
            self._data.set_weight(own, total)

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        if self._data is None:
            return contextlib.nullcontext()
        if self.pipeline is not None and self.layout.zero_stage:
            zero: Any = self._data  # stages still add up the gradients of weights they share
            outside: contextlib.AbstractContextManager[None] = zero.no_sync(leaves_gradients=True)
            return outside
        return self._data.no_sync()

    def synchronise(self) -> None:
        if self._data is not None:
            self._data.synchronise()

    def take_control(self) -> Control | None:
        control = self._data.take_control() if self._data is not None else None
        return control if self.layout.is_flat else None  # it came from some of the ranks only

    def broadcast_buffers(self) -> None:
        if self._data is not None:
            self._data.broadcast_buffers()

    def reload(self) -> None:
        if self._data is not None:
            self._data.reload()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """From the outside in: shards, then stages, then layers."""
        with contextlib.ExitStack() as stack:
            for one in (self._data, self.pipeline, self._tensor):
                if one is not None:
                    stack.enter_context(one.whole())
            yield

    def clip_grad_norm(self, max_norm: float) -> torch.Tensor:
        """Each value counts once, whoever holds it how often."""
        held = self.held()
        if held is None or self.layout.data == "ps":
            assert self._data is not None
            return self._data.clip_grad_norm(max_norm)
        rank = self._transport.rank
        grads = {id(one.tensor): one.tensor.grad for one in held if one.tensor.grad is not None}
        device = held[0].tensor.device if held else torch.device("cpu")
        total = torch.zeros(1, dtype=torch.float64, device=device)
        for one in held:
            grad = grads.get(id(one.tensor))
            if grad is not None and min(one.replicas or (rank,)) == rank:
                for part in one.parts:
                    total += part.of(grad).double().square().sum()
        self._transport.all_reduce(total)
        norm = math.sqrt(total.item())
        if norm > max_norm and grads:
            torch._foreach_mul_(list(grads.values()), max_norm / (norm + 1e-6))
        return torch.tensor(norm)

    # what a checkpoint must know

    def _inner_held(self) -> dict[int, Held]:
        """Of each local parameter: what of the whole model it is, and who else has it."""
        stage = self.pipeline.held() if self.pipeline is not None else []
        layers = self._tensor.held() if self._tensor is not None else []
        if not layers:
            return {id(one.tensor): one for one in stage}
        stages = {id(one.tensor): one.replicas for one in stage}
        return {
            id(one.tensor): Held(
                one.tensor, one.parts, self._peers(one.replicas, stages.get(id(one.tensor), ()))
            )
            for one in layers
            if self.pipeline is None or id(one.tensor) in stages
        }

    def _peers(self, tp: Sequence[int], pp: Sequence[int], dp: bool = False) -> tuple[int, ...]:
        """Ranks with the same values: given ranks' places on tp and pp, mine or all on dp."""
        mesh, me = self.layout.mesh, self._transport.rank
        columns = {mesh.place(rank)["tp"] for rank in tp or (me,)}
        stages = {mesh.place(rank)["pp"] for rank in pp or (me,)}
        copies = range(mesh.dp) if dp else [mesh.place(me)["dp"]]
        return tuple(sorted(mesh.rank(d, p, t) for d in copies for p in stages for t in columns))

    def held(self) -> Sequence[Held] | None:
        if self.layout.data == "ddp" and self.layout.is_flat:
            return None
        outer = self._data.held() if self._data is not None else None
        if outer is None:
            return [self._widened(one) for one in self._inner.values()]
        if not self._inner:
            return outer
        return [held for one in outer for held in self._compose(one)]

    def _widened(self, one: Held) -> Held:
        """Every data-parallel copy has the same."""
        return Held(one.tensor, one.parts, self._peers(one.replicas, one.replicas, dp=True))

    def _compose(self, outer: Held) -> list[Held]:
        """A shard of local parameters: from their places to places in the whole model."""
        parts: dict[tuple[int, ...], list[Part]] = {}
        for part in outer.parts:
            inner = self._inner[id(self._locals[part.name])]
            parts.setdefault(inner.replicas, []).extend(intersect(part, inner.parts))
        return [Held(outer.tensor, tuple(found), ranks) for ranks, found in parts.items()]


def spread_out(
    session: Session, model: nn.Module, optimizer: Optimizer, criterion: Any
) -> tuple[Spread, Cut | None]:
    """Spread a session's model as its recipe says; and how checkpoints have to know it, if cut."""
    outline = Outline.of(model, parameter_names(model, optimizer))
    found = Spread(
        model,
        optimizer,
        session.transport,
        session.layout,
        session.recipe,
        session.agreement.outgoing,
        criterion,
    )
    if session.world.is_master:
        log.info("strategy %s on a mesh of %s", session.layout.name, session.layout.mesh)
    is_cut = found.held() is not None
    return found, Cut(model, optimizer, found, outline) if is_cut else None


def intersect(outer: Part, inner: Sequence[Part]) -> list[Part]:
    """`outer` lies in a shard and covers a local tensor; `inner` covers the whole model."""
    found = []
    for part in inner:
        begin = max(outer.begin, part.at)
        end = min(outer.end, part.at + part.end - part.begin)
        if begin < end:
            shift = part.begin - part.at
            at = outer.at + begin - outer.begin
            found.append(Part(part.name, part.shape, begin + shift, end + shift, at))
    return found

