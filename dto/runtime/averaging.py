"""Gradients averaged over ranks in flat buckets, while backward still makes the next ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dto.errors import DtoError, PeerLostError
from dto.runtime.buckets import Bucket, Spec, plan_buckets
from dto.runtime.control import CONTROLS, Control
from dto.runtime.riders import Riders
from dto.runtime.transport import Handle, Transport


class _Filled:
    """A bucket with its memory and the state of the backward under way."""

    def __init__(self, plan: Bucket) -> None:
        self.plan = plan
        self.flat = torch.zeros(plan.numel + plan.extra, dtype=plan.dtype, device=plan.device)
        self.missing = len(plan.members)
        self.handle: Handle | None = None

    def tail(self) -> torch.Tensor:
        return self.flat[self.plan.numel :]


class Averaging:
    """Hooks on parameters that send each bucket as soon as backward has filled it.

    After a synchronised backward `param.grad` is a view into its bucket: the mean over ranks, or
    nothing where no rank used the parameter. Behind the gradients of the last bucket travel the
    sums of everybody's `Control`, which parameters were used, and the `riders`.
    """

    def __init__(
        self,
        params: Sequence[torch.nn.Parameter],
        transport: Transport,
        outgoing: Callable[[], Control],
        capacity_bytes: int,
        riders: Riders,
        names: Sequence[str] = (),
    ) -> None:
        self.params = list(params)
        self._names = names or [f"parameter {number}" for number in range(len(params))]
        self.transport = transport
        self.is_synchronised = True
        self.is_counted = True
        """False on a rank that only keeps step: what it computes is no use of a parameter."""
        self.control: torch.Tensor | None = None
        self.has_even_buffers = False
        """Whether all came with the last gradients, and no forward pass changed them since."""
        self._outgoing = outgoing
        self._riders = riders
        self._size = torch.tensor(float(transport.size))  # as a number it would cost 3 us more
        self._is_running = False
        self._seen = [False] * len(self.params)
        self._touched = [False] * len(self.params)
        self._lay_out(capacity_bytes)
        self._hooks: list[Any] = [
            param.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                self._arrival_hook(number)
            )
            for number, param in enumerate(self.params)
        ]

    def _lay_out(self, capacity_bytes: int) -> None:
        specs = [Spec(tuple(p.shape), p.dtype, p.device) for p in self.params]
        extra = CONTROLS + len(specs) + self._riders.numel
        plans = plan_buckets(specs, extra, capacity_bytes)
        self._buckets = [_Filled(plan) for plan in plans]
        self._views: list[torch.Tensor] = [torch.empty(0)] * len(specs)
        self._home: list[_Filled] = [self._buckets[-1]] * len(specs)
        for bucket in self._buckets:
            for number, offset in zip(bucket.plan.members, bucket.plan.offsets, strict=True):
                size, shape = specs[number].numel, specs[number].shape
                self._views[number] = bucket.flat[offset : offset + size].view(shape)
                self._home[number] = bucket
        tail = self._buckets[-1].tail()
        parts = torch.split(tail, [CONTROLS, len(specs), self._riders.numel])
        self._told, self._used, self._carried = parts

    def close(self) -> None:
        """Let go of the parameters."""
        for hook in self._hooks:
            hook.remove()

    def before_forward(self, args: Any, kwargs: Any) -> None:
        """Inputs stay what they are."""

    def after_forward(self, output: Any) -> None:
        """And outputs."""

    # while backward runs

    def _arrival_hook(self, number: int) -> Callable[[torch.Tensor], None]:
        view, bucket = self._views[number], self._home[number]
        seen, touched = self._seen, self._touched

        def arrived(param: torch.Tensor) -> None:
            if self.is_counted:
                touched[number] = True
            if not self.is_synchronised:
                return
            if not self._is_running:
                self._begin()
            if seen[number]:
                return
            seen[number] = True
            self._pack(view, param)
            bucket.missing -= 1
            if not bucket.missing:
                self._launch_ready()

        return arrived

    def _begin(self) -> None:
        self._is_running = True
        # runs once at the end of this backward, before backward() returns
        torch.autograd.Variable._execution_engine.queue_callback(self.finish)

    def _pack(self, view: torch.Tensor, param: torch.Tensor) -> None:
        """Move param.grad into its place in the bucket, divided by the world's size."""
        grad = param.grad
        assert grad is not None
        if grad.is_sparse:
            raise DtoError("a sparse gradient cannot be averaged: use Embedding(sparse=False)")
        torch.div(grad.detach() if grad.requires_grad else grad, self._size, out=view)
        param.grad = view

    def _launch_ready(self) -> None:
        # The last bucket waits for the end: only then is it known which parameters were used.
        for bucket in self._buckets[:-1]:
            if bucket.handle is None:
                if bucket.missing:
                    return
                bucket.handle = self.transport.all_reduce_async(bucket.flat)

    # at its end

    def finish(self) -> None:
        """Send what backward did not come by, wait for all buckets, give the means out."""
        try:
            for number, param in enumerate(self.params):
                if not self._seen[number]:
                    self._stand_in(number, param)
            for bucket in self._buckets:
                bucket.missing = 0
            self._launch_ready()
            self._write_tail()
            last = self._buckets[-1]
            last.handle = self.transport.all_reduce_async(last.flat)
            for bucket in self._buckets:
                self._wait(bucket)
            self.control = self._told
            self._riders.read(self._carried)
            self.has_even_buffers = self._riders.are_all
            self._hand_out()
        finally:
            self._reset()

    def _wait(self, bucket: _Filled) -> None:
        assert bucket.handle is not None
        try:
            bucket.handle.wait()
        except RuntimeError as error:
            names = [self._names[number] for number in bucket.plan.members]
            what = " to ".join(dict.fromkeys([*names[:1], *names[-1:]])) or "nothing"
            reason = str(error).split("] ", 1)[-1].split(". ")[0]
            raise PeerLostError(
                f"rank {self.transport.rank} lost another while the gradients of {what} were"
                f" averaged: {reason}"
            ) from None

    def _stand_in(self, number: int, param: torch.nn.Parameter) -> None:
        """Backward did not come by: send what earlier ones accumulated, or zeros."""
        if param.grad is None:
            self._views[number].zero_()
        else:
            self._pack(self._views[number], param)
            self._touched[number] = True

    def _write_tail(self) -> None:
        control = self._outgoing()
        loss = control.loss if isinstance(control.loss, float) else 0.0
        self._told.copy_(torch.tensor([control.stop, control.samples, control.save, loss]))
        if isinstance(control.loss, torch.Tensor):
            self._told[3] = control.loss
        if all(self._touched):
            self._used.fill_(1.0)
        else:
            self._used.copy_(torch.tensor(self._touched))
        self._riders.write(self._carried)

    def _hand_out(self) -> None:
        """Every parameter that some rank used gets the average; the others keep no gradient."""
        if all(self._touched):
            return
        used = self._used.tolist()
        for number, param in enumerate(self.params):
            param.grad = self._views[number] if used[number] else None

    def _reset(self) -> None:
        self._is_running = False
        self._seen[:] = self._touched[:] = [False] * len(self.params)
        for bucket in self._buckets:
            bucket.missing = len(bucket.plan.members)
            bucket.handle = None
