"""One training step under ZeRO: what is gathered, freed, and reduced when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.sharded import Held
from dto.errors import DtoError, UsageError
from dto.runtime.transport import Transport, broadcast_all
from dto.runtime.zero.block import Memory
from dto.runtime.zero.controls import Controls
from dto.runtime.zero.hooks import Hook, cast, is_in_backward, tensors_in
from dto.runtime.zero.line import Line
from dto.runtime.zero.norms import local_grads, spread_overflow
from dto.runtime.zero.optimizers import group_numbers, repoint
from dto.runtime.zero.reducer import Reducer
from dto.runtime.zero.unit import Unit, plain
from dto.runtime.zero.units import UnitPlan


class Engine:
    """Follows a model through forward, backward and step by hooks.

    Stage 3 gathers each unit before its forward, frees it after, and again around its backward;
    the root, and the unit that backward begins with, stay in between. Stages 1 and 2 gather
    once, after the step. The order of all this is that of rank 0's first forward.
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
        self._model, self._memory, self._transport = model, memory, transport
        self._controls, self._optimizer = controls, optimizer
        self._params = dict(model.named_parameters())
        self._was_trained = [p.requires_grad for p in self._params.values()]
        self._exact = next(iter(self._params.values())).dtype
        groups = group_numbers(model, optimizer)
        self.units = [
            Unit(number, plan, self._params, groups, memory, transport)
            for number, plan in enumerate(plans)
        ]
        stepped = (item for u in self.units for block in u.blocks for item in block.stepped())
        repoint(optimizer, stepped, {plain(name): p for name, p in self._params.items()})
        self._frees = memory.stage == 3
        self.is_synchronised, self.weight, self._is_whole = True, 1.0, False
        self._is_running, self._is_agreed = False, len(plans) == 1
        self._kept: list[Unit] = []
        self._seen: list[int] = []
        self._needed: set[int] = set()
        self._arrange(list(range(len(plans))), list(range(len(plans))))
        self._hooks: list[Any] = []
        self._add_hooks()
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)
        if self._frees:
            self._expire()

    def _arrange(self, forward: Sequence[int], backward: Sequence[int]) -> None:
        """Units by number as forward comes by them, the root first; and those backward needs."""
        ordered = [self.units[number] for number in forward]
        self._root, self._last = ordered[0], ordered[-1]
        needed = [self.units[number] for number in reversed(forward[1:]) if number in backward]
        self._forward, self._backward = Line(ordered), Line([self._root, *needed])
        self._reducer = Reducer(ordered[::-1])

    def _add_hooks(self) -> None:
        hooks, root = self._hooks, self._model
        before, after = Hook(root, self._before_root), Hook(root, self._after_root)
        hooks.append(root.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
        hooks.append(root.register_forward_hook(after))
        for number, unit in enumerate(self.units):
            if number:
                start = Hook(unit.module, partial(self._before_unit, number))
                end = Hook(unit.module, partial(self._after_unit, number))
                hooks.append(unit.module.register_forward_pre_hook(start, with_kwargs=True))
                hooks.append(unit.module.register_forward_hook(end))
            for place, param in enumerate(unit.trained):
                arrived: Any = partial(self._arrived, unit, place)
                register: Any = param.register_post_accumulate_grad_hook
                hooks.append(register(arrived))

    # forward

    def _before_root(self, args: Any, kwargs: Any) -> Any:
        if not is_in_backward():
            self._begin_forward()
        if self._memory.precision is None:
            return None
        return cast(args, self._memory.precision), cast(kwargs, self._memory.precision)

    def _begin_forward(self) -> None:
        if [p.requires_grad for p in self._params.values()] != self._was_trained:
            raise UsageError(
                "parameters were frozen or thawed after dto.Zero had laid them out: do it before"
            )
        if self._is_running:  # a backward that failed half-way
            self._reset()
        if self._is_whole:
            return
        if self.is_synchronised and self._model.training and torch.is_grad_enabled():
            self.broadcast_buffers()
        if self._frees:
            self._kept.clear()
            self._forward.begin()
            self._forward.need(self._root)

    def _before_unit(self, number: int, args: Any, kwargs: Any) -> None:
        unit = self.units[number]
        if not self._is_agreed and number not in self._seen:
            self._seen.append(number)
        if not self._frees or self._is_whole:
            return
        if is_in_backward():  # a checkpoint computes once more what it did not keep
            self._before_backward(unit, None)
            return
        if not self._root.is_gathered:  # called by itself, not by the model
            self._forward.need(self._root)
        self._forward.need(unit)
        if unit.has_frozen and torch.is_grad_enabled():
            self._follow_inputs(unit, (args, kwargs))

    def _follow_inputs(self, unit: Unit, inputs: Any) -> None:
        """Frozen parameters have no gradient that tells when they are done with."""

        def arrived(grad: torch.Tensor) -> None:
            unit.inputs_left -= 1
            self._free_done(unit)

        for tensor in tensors_in(inputs):
            if tensor.requires_grad:
                unit.inputs_left += 1
                tensor.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _after_unit(self, number: int, args: Any, output: Any) -> None:
        unit = self.units[number]
        if not self._frees or self._is_whole:
            return
        is_followed = self._follow_outputs(unit, output)
        if is_in_backward():
            return
        is_odd = torch.is_grad_enabled() and bool(unit.trained) and not is_followed
        if is_odd or (is_followed and unit is self._last) or unit.lends(output):
            self._kept.append(unit)
        else:
            unit.free()

    def _follow_outputs(self, unit: Unit, output: Any) -> bool:
        """Have the unit back before its backward; False where no output would tell of it."""
        if not torch.is_grad_enabled():
            return False
        found = [t for t in tensors_in(output) if t.requires_grad and not t.is_leaf]
        for tensor in found:
            tensor.register_hook(partial(self._before_backward, unit))  # type: ignore[no-untyped-call]
        return bool(found)

    def _after_root(self, args: Any, output: Any) -> Any:
        if not is_in_backward() and not self._is_whole:
            is_followed = self._follow_outputs(self._root, output)
            if self._frees:
                self._end_forward(is_followed, output)
        return cast(output, self._exact) if self._memory.precision is not None else None

    def _end_forward(self, is_followed: bool, output: Any) -> None:
        self._forward.drain()
        if is_followed or self._root.lends(output):
            self._kept.append(self._root)
        for unit in self.units:
            if unit not in self._kept:
                unit.free()

    # backward

    def _before_backward(self, unit: Unit, grad: torch.Tensor | None) -> None:
        self._begin_backward()
        if self._frees and not self._is_whole:
            self._needed.add(unit.number)
            self._backward.need(unit)

    def _begin_backward(self) -> None:
        if self._is_running:
            return
        self._is_running = True
        # runs once at the end of this backward, before backward() returns
        torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        if self._frees and not self._is_whole:
            self._backward.begin()
            self._backward.need(self._root)

    def _arrived(self, unit: Unit, place: int, param: torch.Tensor) -> None:
        self._begin_backward()
        if not unit.arrive(place):
            raise DtoError(
                f"unit {unit.name!r} got a gradient twice in one backward: use"
                " checkpoint(use_reentrant=False)"
            )
        if not unit.missing:
            self._free_done(unit)
            self._reducer.advance(self.weight, self._sends)

    @property
    def _sends(self) -> bool:
        """Stages 2 and 3 keep no sums of their own: they send within `no_sync`, too."""
        return self.is_synchronised or self._memory.stage > 1

    def _free_done(self, unit: Unit) -> None:
        if unit is not self._root and unit.is_done and not self._is_whole:
            unit.free()

    def _finish(self) -> None:
        self._reducer.finish(self.weight, self._sends)
        if self.is_synchronised:
            self._controls.start()
        self._reducer.wait()
        if self.is_synchronised:
            self._complete()
        if self._frees and not self._is_whole:
            self._backward.drain()
            for unit in self.units:
                unit.free()
        self._agree()
        self._reset()

    def _agree(self) -> None:
        """Once: the order of rank 0's first forward, then whatever only others used."""
        if self._is_agreed or self._is_whole:
            return
        everyones = self._transport.all_gather_object((self._seen, sorted(self._needed)))
        orders = [*(order for order, _ in everyones), range(1, len(self.units))]
        forward = list(dict.fromkeys([0, *(number for order in orders for number in order)]))
        self._arrange(forward, [number for _, needed in everyones for number in needed])
        self._is_agreed = True

    def _reset(self) -> None:
        self._is_running = False
        self._reducer.reset()

    def synchronise(self) -> None:
        """Average what backward passes inside `no_sync` have left."""
        self._reducer.send_own()
        self._controls.start()
        self._reducer.wait()
        self._complete()

    def _complete(self) -> None:
        self._controls.finish()
        if self._memory.precision == torch.float16:
            spread_overflow(local_grads(self._optimizer), self._transport, self._controls.device)

    def broadcast_buffers(self) -> None:
        """Give every rank the buffers of rank 0."""
        buffers = [value.detach() for value in self._model.buffers()]
        broadcast_all(self._transport, buffers)

    # what is kept

    def held(self) -> list[Held]:
        """What this rank keeps of the model."""
        return [held for unit in self.units for block in unit.blocks for held in block.held()]

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, all parameters are gathered and stay so."""
        if self._is_whole:
            yield
            return
        self._gather()
        self._is_whole = True
        try:
            yield
        finally:
            self._is_whole = False
            for unit in self.units:
                unit.free()

    def unshard(self) -> None:
        """Leave whole parameters behind, in their first precision, and follow them no more."""
        for hook in self._hooks:
            hook.remove()
        for unit in self.units:
            unit.finish_gather()
            for block in unit.blocks:
                block.unshard()

    def nbytes(self) -> dict[str, int]:
        """Bytes of parameters and gradients on this rank."""
        blocks = [block for unit in self.units for block in unit.blocks]
        gradients = sum(unit.gradient_bytes for unit in self.units)
        return {"parameters": sum(b.nbytes for b in blocks), "gradients": gradients}

    # step

    def _before_step(self, *args: Any) -> None:
        if any(unit.has_own_gradients for unit in self.units):
            raise UsageError("backward ran inside no_sync alone: leave it before step()")

    def _after_step(self, *args: Any) -> None:
        self.reload()

    def reload(self) -> None:
        """This rank's pieces have changed: have the parameters follow."""
        self._expire()
        if not self._frees or self._is_whole:
            self._gather()

    def _expire(self) -> None:
        for unit in self.units:
            unit.expire()

    def _gather(self) -> None:
        for unit in self.units:
            unit.start_gather()
        for unit in self.units:
            unit.finish_gather()
