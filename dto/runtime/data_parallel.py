"""Data parallelism from collectives: gradients averaged over ranks while backward still runs.

Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (VLDB 2020),
without `torch.nn.parallel`. Three things differ. A batch that is uneven over ranks is weighted,
so the result is the gradient of the whole global batch. A few control values ride in the last
bucket, so that agreeing on a stop costs nothing. A parameter that no rank used keeps no gradient.
How gradients travel is in averaging.py, how they are packed in buckets.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dto.errors import ConfigError
from dto.runtime.averaging import Averaging
from dto.runtime.buckets import CAPACITY_BYTES
from dto.runtime.control import Control
from dto.runtime.model_hook import ModelHook
from dto.runtime.owners import no_sync, set_owner
from dto.runtime.riders import Riders
from dto.runtime.sameness import describe_model, require_same
from dto.runtime.transport import Transport, broadcast_all, join_world
from dto.runtime.watch import Watch

if TYPE_CHECKING:
    from dto.runtime.torch_averaging import TorchAveraging

__all__ = ["Control", "DataParallel", "no_sync", "set_owner"]

BACKENDS = ("dto", "torch")


class DataParallel:
    """Keeps one model's replicas in step. The model itself stays the object that it was.

    Replicas start as rank 0 has the model. After `loss.backward()` gradients are those of the
    mean over all ranks, and any optimizer may step.

    Args:
        model: called as ever; what is frozen, thawed or left unused on the way is followed.
        transport: the ranks to be in step with; the world of the launcher if not given.
        outgoing: asked once per synchronised backward for what this rank tells the others.
        capacity_bytes: gradients travel in buckets of at least this size, but for the last.
        backend: "torch" has torch's DistributedDataParallel average them; then every parameter
            must be used, and no control values come with the gradients.

    Raises:
        ConfigError: there is nothing to train, or it lies on several devices.
        WorldError: a rank has another model.
    """

    name = "ddp"

    def __init__(
        self,
        model: nn.Module,
        transport: Transport | None = None,
        outgoing: Callable[[], Control] = Control,
        capacity_bytes: int = CAPACITY_BYTES,
        *,
        backend: str = "dto",
    ) -> None:
        if backend not in BACKENDS:
            names = ", ".join(BACKENDS)
            raise ConfigError(f"there is no data-parallel backend {backend!r}: use one of {names}")
        device = require_trainable(model)
        self.model = model
        self._is_owner = transport is None
        self.transport = join_world(device) if transport is None else transport
        self.weight = 1.0
        self._outgoing = outgoing
        self._capacity, self._backend = capacity_bytes, backend
        self._is_weighted = False
        self._weights: list[Any] = []
        require_same(self.transport, "another model", describe_model(model))
        self.broadcast_state()
        self._watch = Watch(model)
        self._averaging = self._average()
        self._averaging.has_even_buffers = True
        model.register_forward_pre_hook(ModelHook(self._before_forward), with_kwargs=True)
        model.register_forward_hook(ModelHook(self._after_forward))
        set_owner(model, self)

    # equal start

    def broadcast_state(self) -> None:
        """Give every rank the parameters and buffers of rank 0."""
        values = [*self.model.parameters(), *self.model.buffers()]
        broadcast_all(self.transport, [value.detach() for value in values])

    def broadcast_buffers(self) -> None:
        """Give every rank the buffers of rank 0, such as BatchNorm's running means.

        By themselves they come with the gradients: call this where a rank changed them by hand.
        """
        broadcast_all(self.transport, [value.data for value in self.model.buffers()])

    # what is trained

    def _average(self) -> Averaging | TorchAveraging:
        params = [p for p in self.model.parameters() if p.requires_grad]
        if self._backend == "torch" and self.transport.size > 1:
            from dto.runtime.torch_averaging import TorchAveraging

            return TorchAveraging(self.model, params, self.transport)
        device = params[0].device if params else torch.device("cpu")
        riders = Riders(list(self.model.buffers()), device, self.transport.rank == 0)
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        return Averaging(params, self.transport, self._outgoing, self._capacity, riders, names)

    def _follow(self) -> None:
        """Other parameters are trained than before: average those."""
        self._watch.look()
        self._averaging.close()
        self._averaging = self._average()
        self._averaging.is_counted = self.weight != 0.0
        if self._is_weighted:
            self._register_weights()

    def _before_forward(self, args: Any, kwargs: Any) -> Any:
        """Follow what was frozen or thawed, and start from rank 0's buffers as torch's DDP does."""
        is_silent = not (self._averaging.is_synchronised and torch.is_grad_enabled())
        if not is_silent and self._watch.has_changed():
            self._follow()
        if self.model.training:
            if not (is_silent or self._averaging.has_even_buffers):
                self.broadcast_buffers()
            self._averaging.has_even_buffers = False  # for this pass changes them
        return self._averaging.before_forward(args, kwargs)

    def _after_forward(self, args: Any, output: Any) -> Any:
        return self._averaging.after_forward(output)

    # uneven batches, accumulation

    def set_weight(self, own: int, total: int) -> None:
        """Announce a batch: this rank has `own` of its `total` samples.

        Gradients are scaled as they arrive, by own · W / total, so that accumulating several
        batches stays a sum. Even batches (weight 1) never pay for it.
        """
        self.weight = own * self.transport.size / total if total else 0.0
        self._averaging.is_counted = self.weight != 0.0
        if self.weight != 1.0 and not self._is_weighted:
            self._is_weighted = True
            self._register_weights()

    def _register_weights(self) -> None:
        for hook in self._weights:
            hook.remove()
        self._weights = [
            param.register_hook(self._scaled)  # type: ignore[no-untyped-call]
            for param in self._averaging.params
        ]

    def _scaled(self, grad: torch.Tensor) -> torch.Tensor:
        if self.weight == 1.0:
            return grad
        return grad * self.weight if self.weight else torch.zeros_like(grad)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let gradients accumulate on each rank; the next backward outside sends them."""
        before, self._averaging.is_synchronised = self._averaging.is_synchronised, False
        try:
            yield
        finally:
            self._averaging.is_synchronised = before

    def synchronise(self) -> None:
        """Average what backward passes under `no_sync` have accumulated; every rank calls it."""
        self._averaging.finish()

    def take_control(self) -> Control | None:
        """The sums that came with the last synchronised backward; None if there was none since."""
        told, self._averaging.control = self._averaging.control, None
        return None if told is None else Control(*told.tolist())

    def clip_grad_norm(self, max_norm: float) -> torch.Tensor:
        """Scale the averaged gradients so that their norm is at most `max_norm`.

        Returns the norm before. Gradients are alike on all ranks, so nothing is sent.
        """
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def close(self) -> None:
        """Leave the world, where this was what joined it."""
        if self._is_owner:
            self.transport.close()

    # checkpoints: every rank has everything

    def held(self) -> None:
        """Nothing is cut: rank 0 has the whole model and writes it."""

    def reload(self) -> None:
        """A checkpoint was put into the model: there is nothing to gather."""

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Parameters are complete on every rank at any time."""
        return contextlib.nullcontext()


def require_trainable(model: nn.Module) -> torch.device:
    """The device that the model is on.

    Raises:
        ConfigError: there is nothing to train, or it lies on several devices.
    """
    params = list(model.parameters())
    if not params:
        raise ConfigError("the model has no parameters: there is nothing to train")
    if not any(param.requires_grad for param in params):
        raise ConfigError("no parameter of the model requires a gradient: thaw one to train it")
    devices = sorted({str(param.device) for param in params})
    if len(devices) > 1:
        raise ConfigError(
            f"the model's parameters lie on {' and '.join(devices)}: move all to one with"
            " model.to(device)"
        )
    return params[0].device
