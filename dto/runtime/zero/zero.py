"""ZeRO in three stages (3 is also called FSDP): each rank keeps and steps its part of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.sharded import Held
from dto.errors import ConfigError
from dto.runtime.control import Control
from dto.runtime.data_parallel import require_trainable
from dto.runtime.owners import set_owner
from dto.runtime.sameness import describe_model, require_same
from dto.runtime.transport import Transport, join_world
from dto.runtime.zero.block import Memory
from dto.runtime.zero.controls import Controls
from dto.runtime.zero.engine import Engine
from dto.runtime.zero.norms import clip, local, local_grads, spread_overflow
from dto.runtime.zero.optimizers import require_elementwise
from dto.runtime.zero.units import UNIT_BYTES, plan_units

BACKENDS = ("dto", "torch")
_PRECISIONS = (None, torch.bfloat16, torch.float16)


class Zero:
    """Trains a model whose optimizer state (stage 1), gradients (2) and parameters (3) are cut up.

    Every rank builds the same model and optimizer and goes on with its own loop: forward,
    backward, `optimizer.step()`. Both stay the objects that they are; the optimizer's groups hold
    this rank's pieces from now on, and gradients, averaged over ranks, are in these pieces: clip
    by `clip_grad_norm`, clear by `optimizer.zero_grad()`. All ranks call the model the same
    number of times, outside of `whole` at least. A parameter that nobody used has gradient zero.
    Inside `no_sync` stage 1 keeps sums of its own; stages 2 and 3, which have no room for them,
    send each time. A unit is used by calling it, and what it returns is all that is used of it.

    Args:
        model: parameters of several dtypes are kept apart; all on one device.
        optimizer: one that treats each element by itself, of the model's parameters.
        stage: 1, 2 or 3; see `block` for what each keeps.
        transport: the ranks; by default all that the launcher started.
        outgoing: values that are added up over ranks with every synchronised backward.
        mixed_precision: dtype of gathered parameters, activations and gradients on their way;
            the optimizer's pieces stay as exact as the parameters were. For float16 use
            torch.amp.GradScaler: an overflow on one rank reaches all.
        offload: pieces and optimizer state lie in the CPU's memory.
        units: the bytes, or the patterns of module names, by which parameters are gathered
            together.
        elementwise: vouches for an optimizer that torch does not have.
        backend: "torch" has `fully_shard` do it: stage 3, or 2 without freeing in between.

    Raises:
        ConfigError: something does not go with ZeRO; the message says what does.
        WorldError: ranks have different models, or one went away.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stage: int = 3,
        *,
        transport: Transport | None = None,
        outgoing: Callable[[], Control] = Control,
        mixed_precision: torch.dtype | None = None,
        offload: bool = False,
        units: int | Sequence[str] = UNIT_BYTES,
        elementwise: bool = False,
        backend: str = "dto",
    ) -> None:
        memory = Memory(stage, mixed_precision, offload)
        device = _check(model, memory, backend)
        require_elementwise(optimizer, elementwise)
        self.model, self.optimizer, self.stage = model, optimizer, stage
        self._is_joined = transport is None
        self.transport = transport = transport or join_world(device)
        mine = [f"ZeRO {stage}, {mixed_precision}, units {units}", *describe_model(model)]
        require_same(transport, "another model", mine)
        self._controls = Controls(transport, outgoing, device, model.buffers())
        plans = plan_units(model, units)
        if backend == "torch":
            from dto.runtime.zero.torch_engine import TorchEngine

            self._engine: Any = TorchEngine(
                model, optimizer, plans, memory, transport, self._controls
            )
        else:
            self._engine = Engine(model, optimizer, plans, memory, transport, self._controls)
        set_owner(model, self)

    @property
    def name(self) -> str:
        return f"zero{self.stage}"

    # training

    def set_weight(self, own: int, total: int) -> None:
        """Announce a batch: this rank has `own` of its `total` samples.

        The gradients of the next backward are scaled such that their average over ranks is the
        gradient of the mean over all samples.
        """
        self._engine.weight = own * self.transport.size / total if total else 0.0

    @contextlib.contextmanager
    def no_sync(self, leaves_gradients: bool = False) -> Iterator[None]:
        """Let gradients accumulate; the next backward outside completes them.

        In stage 1 `leaves_gradients` has them stay in the parameters until `synchronise`, since
        others add to them: a pipeline those of weights that its stages share.
        """
        engine = self._engine
        before, engine.is_synchronised = engine.is_synchronised, False
        engine.leaves_gradients = leaves_gradients
        try:
            yield
        finally:
            engine.is_synchronised, engine.leaves_gradients = before, False

    def synchronise(self) -> None:
        """Average what backward passes inside `no_sync` have left; all ranks call it."""
        self._engine.synchronise()

    def take_control(self) -> Control | None:
        """The sums that came with the last synchronised backward; None if there was none since."""
        return self._controls.take()

    def broadcast_buffers(self) -> None:
        """Give every rank the buffers of rank 0, such as BatchNorm's running means.

        By themselves they come with the gradients: call this where a rank changed them by hand.
        """
        self._controls.broadcast_buffers()

    def clip_grad_norm(self, max_norm: float) -> torch.Tensor:
        """Scale all gradients such that their norm over all ranks is at most `max_norm`.

        Returns the norm before, the same on every rank.
        """
        return clip(local_grads(self.optimizer), max_norm, self.transport, self._controls.device)

    def agree_on_overflow(self) -> None:
        """Where one rank's gradients overflowed, let all ranks' be infinite.

        Before `scaler.unscale_` or `scaler.step` of a GradScaler, so that all skip the same steps;
        with `mixed_precision=torch.float16` it is done after every synchronised backward.
        """
        spread_overflow(local_grads(self.optimizer), self.transport, self._controls.device)

    # the whole model

    def held(self) -> list[Held]:
        """What this rank keeps of the model, for checkpoints."""
        return list(self._engine.held())

    def reload(self) -> None:
        """The held tensors have new values from outside: let the model follow."""
        self._engine.reload()

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Inside, `model.parameters()` are complete; all ranks enter and leave it together.

        Within, each rank may call the model as often as it likes, or keep from it.
        """
        context: contextlib.AbstractContextManager[None] = self._engine.whole()
        return context

    def unshard(self) -> None:
        """Training is over: leave every rank the whole model, as exact as the pieces were."""
        self._engine.unshard()

    def nbytes(self) -> dict[str, int]:
        """What this rank has now: bytes of parameters, gradients, and optimizer state."""
        state = self.optimizer.state.values()
        tensors = [t for values in state for t in values.values() if isinstance(t, torch.Tensor)]
        found: dict[str, int] = self._engine.nbytes()
        return {**found, "optimizer": sum(local(t).untyped_storage().nbytes() for t in tensors)}

    def close(self) -> None:
        """Leave the world, where this object joined it."""
        if self._is_joined:
            self.transport.close()


def _check(model: nn.Module, memory: Memory, backend: str) -> torch.device:
    """The device of the model, where all is well."""
    if memory.stage not in (1, 2, 3):
        raise ConfigError(f"ZeRO has no stage {memory.stage!r}: use 1, 2 or 3")
    if backend not in BACKENDS:
        raise ConfigError(f"ZeRO has no backend {backend!r}: use one of {', '.join(BACKENDS)}")
    if memory.precision not in _PRECISIONS:
        raise ConfigError(
            f"mixed_precision is {memory.precision}: use torch.bfloat16 or torch.float16"
        )
    return require_trainable(model)
