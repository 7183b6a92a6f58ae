"""Data parallelism from collectives: gradients averaged over ranks while backward still runs.

Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (VLDB 2020),
without `torch.nn.parallel`. Three things differ. A batch that is uneven over ranks is weighted,
so the result is the gradient of the whole global batch. A few control values ride in the last
bucket, so that agreeing on a stop costs nothing. A parameter that no rank used keeps no gradient.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dto.errors import DtoError
from dto.runtime.buckets import CAPACITY_BYTES, Bucket, Spec, plan_buckets
from dto.runtime.sameness import describe_model, require_same
from dto.runtime.transport import Handle, Transport, broadcast_all


@dataclass
class Control:
    """What ranks tell one another with every synchronised backward; summed over ranks."""

    stop: float = 0.0
    samples: float = 0.0
    save: float = 0.0
    loss: float | torch.Tensor = 0.0
    """Loss times samples; a tensor of one element where reading it would wait for a GPU."""


CONTROLS = 4


class _Filled:
    """A bucket with its memory and the state of the backward under way."""

    def __init__(self, plan: Bucket) -> None:
        self.plan = plan
        self.flat = torch.zeros(plan.numel + plan.extra, dtype=plan.dtype, device=plan.device)
        self.missing = len(plan.members)
        self.handle: Handle | None = None

    def tail(self) -> torch.Tensor:
        return self.flat[self.plan.numel :]


class _BeforeForward:
    """The forward hook; copies and pickles of the model leave it behind."""

    def __init__(self, owner: DataParallel) -> None:
        self._owner = weakref.ref(owner)

    def __call__(self, module: nn.Module, args: Any) -> None:
        owner = self._owner()
        if owner is not None and module is owner.model:
            owner.before_forward()

    def __deepcopy__(self, memo: Any) -> _BeforeForward:
        return self

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return (_no_hook, ())


def _no_hook() -> Callable[[nn.Module, Any], None]:
    return lambda module, args: None


class DataParallel:
    """Keeps one model's replicas in step. The model itself stays the object that it was."""

    def __init__(
        self,
        model: nn.Module,
        transport: Transport,
        outgoing: Callable[[], Control] = Control,
        capacity_bytes: int = CAPACITY_BYTES,
    ) -> None:
        self.model = model
        self.transport = transport
        self.weight = 1.0
        self._outgoing = outgoing
        self._capacity = capacity_bytes
        self._is_synchronised = True
        self._is_running = False
        self._is_weighted = False
        self._control: torch.Tensor | None = None
        self._hooks: list[Any] = []
        require_same(transport, "another model", describe_model(model))
        self.broadcast_state()
        self._build()
        model.register_forward_pre_hook(_BeforeForward(self))
        _owners[model] = self

    # equal start

    def broadcast_state(self) -> None:
        """Give every rank the parameters and buffers of rank 0."""
        values = [*self.model.parameters(), *self.model.buffers()]
        broadcast_all(self.transport, [value.detach() for value in values])

    def broadcast_buffers(self) -> None:
        """Give every rank the buffers of rank 0, such as BatchNorm's running means."""
        broadcast_all(self.transport, [value.detach() for value in self.model.buffers()])

    # layout

    def _build(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._params = [p for p in self.model.parameters() if p.requires_grad]
        self._trained = [id(p) for p in self._params]
        self._count = len(self._params)
        specs = [Spec(tuple(p.shape), p.dtype, p.device) for p in self._params]
        plans = plan_buckets(specs, CONTROLS + self._count, self._capacity)
        self._buckets = [_Filled(plan) for plan in plans]
        self._views: list[torch.Tensor] = [torch.empty(0)] * self._count
        self._home: list[_Filled] = [self._buckets[-1]] * self._count
        for bucket in self._buckets:
            for number, offset in zip(bucket.plan.members, bucket.plan.offsets, strict=True):
                size, shape = specs[number].numel, specs[number].shape
                self._views[number] = bucket.flat[offset : offset + size].view(shape)
                self._home[number] = bucket
        self._seen = [False] * self._count
        self._touched = [False] * self._count
        self._sent: list[float] = []
        self._hooks = [
            p.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                self._arrival_hook(number)
            )
            for number, p in enumerate(self._params)
        ]
        if self._is_weighted:
            self._register_weights()

    def _arrival_hook(self, number: int) -> Callable[[torch.Tensor], None]:
        return lambda param: self._arrived(number, param)

    def before_forward(self) -> None:
        """Follow what was frozen or thawed, and start from rank 0's buffers as torch's DDP does."""
        if not (self._is_synchronised and torch.is_grad_enabled()):
            return
        trained = [id(p) for p in self.model.parameters() if p.requires_grad]
        if trained != self._trained:
            self._build()
        if self.model.training:
            self.broadcast_buffers()

    def set_weight(self, own: int, total: int) -> None:
        """Announce a batch: this rank has `own` of its `total` samples.

        Gradients are scaled as they arrive, by own · W / total, so that accumulating several
        batches stays a sum. Even batches (weight 1) never pay for it.
        """
        self.weight = own * self.transport.size / total if total else 0.0
        if self.weight != 1.0 and not self._is_weighted:
            self._is_weighted = True
            self._register_weights()

    def _register_weights(self) -> None:
        for param in self._params:
            self._hooks.append(param.register_hook(self._scaled))  # type: ignore[no-untyped-call]

    def _scaled(self, grad: torch.Tensor) -> torch.Tensor:
        if self.weight == 1.0:
            return grad
        return grad * self.weight if self.weight else torch.zeros_like(grad)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let gradients accumulate on each rank; the next backward outside sends them."""
        before, self._is_synchronised = self._is_synchronised, False
        try:
            yield
        finally:
            self._is_synchronised = before

    # backward

    def _arrived(self, number: int, param: torch.Tensor) -> None:
        if self.weight != 0.0:  # a rank that only keeps step did not use anything
            self._touched[number] = True
        if not self._is_synchronised:
            return
        if not self._is_running:
            self._is_running = True
            # runs once at the end of this backward, before backward() returns
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        if self._seen[number]:
            return
        self._seen[number] = True
        self._pack(number, param)
        bucket = self._home[number]
        bucket.missing -= 1
        if bucket.missing == 0:
            self._launch_ready()

    def _pack(self, number: int, param: torch.Tensor) -> None:
        """Move param.grad into its place in the bucket, divided by the world's size."""
        view, grad = self._views[number], param.grad
        assert grad is not None
        if grad.is_sparse:
            raise DtoError("a sparse gradient cannot be averaged: use Embedding(sparse=False)")
        with torch.no_grad():
            torch.div(grad.detach(), self.transport.size, out=view)
        param.grad = view

    def _launch_ready(self) -> None:
        # The last bucket waits for the end: only then is it known which parameters were used.
        for bucket in self._buckets[:-1]:
            if bucket.handle is None:
                if bucket.missing:
                    return
                bucket.handle = self.transport.all_reduce_async(bucket.flat)

    def _finish(self) -> None:
        try:
            for number, param in enumerate(self._params):
                if not self._seen[number]:
                    self._stand_in(number, param)
            for bucket in self._buckets:
                bucket.missing = 0
            self._launch_ready()
            last = self._buckets[-1]
            self._write_tail(last.tail())
            last.handle = self.transport.all_reduce_async(last.flat)
            for bucket in self._buckets:
                assert bucket.handle is not None
                bucket.handle.wait()
            self._control = last.tail()
            self._hand_out()
        finally:
            self._reset()

    def _stand_in(self, number: int, param: torch.Tensor) -> None:
        """Backward did not come by: send what earlier ones accumulated, or zeros."""
        if param.grad is None:
            self._views[number].zero_()
        else:
            self._pack(number, param)
            self._touched[number] = True

    def _write_tail(self, tail: torch.Tensor) -> None:
        control = self._outgoing()
        used = [float(touched) for touched in self._touched]
        loss = control.loss if isinstance(control.loss, float) else 0.0
        tail.copy_(torch.tensor([control.stop, control.samples, control.save, loss, *used]))
        if isinstance(control.loss, torch.Tensor):
            tail[3] = control.loss

    def _hand_out(self) -> None:
        """Every parameter that some rank used gets the average; the others keep no gradient."""
        if all(self._touched):
            return
        used = self._buckets[-1].tail()[CONTROLS:].tolist()
        for number, param in enumerate(self._params):
            param.grad = self._views[number] if used[number] else None

    def _reset(self) -> None:
        self._is_running = False
        self._seen = [False] * self._count
        self._touched = [False] * self._count
        for bucket in self._buckets:
            bucket.missing = len(bucket.plan.members)
            bucket.handle = None

    def take_control(self) -> Control | None:
        """The sums that came with the last synchronised backward; None if there was none since."""
        if self._control is None:
            return None
        stop, samples, save, loss = self._control[:CONTROLS].tolist()
        self._control = None
        return Control(stop, samples, save, loss)


_owners: weakref.WeakKeyDictionary[nn.Module, DataParallel] = weakref.WeakKeyDictionary()


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Accumulate gradients without sending them; for a model that nobody distributed: nothing."""
    owner = _owners.get(model)
    return owner.no_sync() if owner else contextlib.nullcontext()
