"""One training step under ZeRO: what is gathered, freed, and reduced when."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.sharded import Held
from dto.errors import DtoError, UsageError
from dto.runtime.transport import Transport
from dto.runtime.zero.block import Memory
from dto.runtime.zero.controls import Controls
from dto.runtime.zero.gathering import Gathering
from dto.runtime.zero.hooks import Hook, cast, is_in_backward
from dto.runtime.zero.norms import local_grads, spread_overflow
from dto.runtime.zero.optimizers import group_numbers, repoint
from dto.runtime.zero.reducer import Reducer
from dto.runtime.zero.unit import Unit, plain
from dto.runtime.zero.units import UnitPlan

log = logging.getLogger(__name__)


class Engine:
    """Follows a model through forward, backward and step by hooks.

    Gradients are reduced while backward goes on; then stages 1 and 2 gather parameters once,
    after the step, and stage 3 whenever they are used. The order of units is the same on all
    ranks, whatever each uses: the model's own, and from the second backward on the order of
    rank 0's first forward.
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
        self._root = self.units[0]
        stepped = (item for u in self.units for block in u.blocks for item in block.stepped())
        repoint(optimizer, stepped, {plain(name): p for name, p in self._params.items()})
        self.is_synchronised, self.weight, self._is_whole = True, 1.0, False
        self.leaves_gradients = False
        self._is_running, self._is_agreed = False, len(plans) == 1
        self._seen: list[int] = []
        self._used: tuple[torch.Tensor, int] | None = None
        self._has_warned = False
        self._reducer = Reducer(self.units[::-1])
        self._gathering: Gathering | None = None
        if memory.stage == 3:
            self._gathering = Gathering(self.units, self._before_backward)
            self._expire()
        self._hooks: list[Any] = []
        self._add_hooks()

    def _add_hooks(self) -> None:
        hooks, root = self._hooks, self._model
        before, after = Hook(root, self._before_root), Hook(root, self._after_root)
        hooks.append(root.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
        hooks.append(root.register_forward_hook(after))
        for unit in self.units:
            if unit is not self._root:
                start = Hook(unit.module, partial(self._before_unit, unit))
                end = Hook(unit.module, partial(self._after_unit, unit))
                hooks.append(unit.module.register_forward_pre_hook(start, with_kwargs=True))
                hooks.append(unit.module.register_forward_hook(end))
            for place, param in enumerate(unit.trained):
                register: Any = param.register_post_accumulate_grad_hook
                hooks.append(register(partial(self._arrived, unit, place)))
        hooks.append(self._optimizer.register_step_pre_hook(self._before_step))
        hooks.append(self._optimizer.register_step_post_hook(self._after_step))

    # forward

    def _before_root(self, args: Any, kwargs: Any) -> Any:
        if not is_in_backward():  # else a checkpoint computes once more what it did not keep
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
        if self._model.training:
            is_silent = not (self.is_synchronised and torch.is_grad_enabled())
            self._controls.before_forward(is_silent)
        if self._gathering is not None:
            self._gathering.begin_forward()

    def _before_unit(self, unit: Unit, args: Any, kwargs: Any) -> None:
        if not self._is_agreed and unit.number not in self._seen:
            self._seen.append(unit.number)
        if self._gathering is None or self._is_whole:
            return
        if is_in_backward():
            self._before_backward(unit)
        else:
            self._gathering.before_unit(unit, (args, kwargs))

    def _after_unit(self, unit: Unit, args: Any, output: Any) -> None:
        if self._gathering is None or self._is_whole:
            return
        if is_in_backward():
            self._gathering.follow_outputs(unit, output)
        else:
            self._gathering.after_unit(unit, output)

    def _after_root(self, args: Any, output: Any) -> Any:
        if self._gathering is not None and not (self._is_whole or is_in_backward()):
            self._gathering.end_forward(output)
        return cast(output, self._exact) if self._memory.precision is not None else None

    # backward

    def _begin_backward(self) -> None:
        if self._is_running:
            return
        self._is_running = True
        self._warn_of_used_gradients()
        # runs once at the end of this backward, before backward() returns
        torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        if self._gathering is not None and not self._is_whole:
            self._gathering.begin_backward()

    def _before_backward(self, unit: Unit) -> None:
        self._begin_backward()
        if self._gathering is not None and not self._is_whole:
            self._gathering.need(unit)

    def _arrived(self, unit: Unit, place: int, param: torch.Tensor) -> None:
        self._begin_backward()
        if not unit.arrive(place):
            raise DtoError(
                f"unit {unit.name!r} got a gradient twice in one backward: use"
                " checkpoint(use_reentrant=False)"
            )
        if unit.missing:
            return
        if self._gathering is not None and not self._is_whole:
            self._gathering.free_done(unit)
        if not self.leaves_gradients:
            self._reducer.advance(self.weight, self._sends)

    @property
    def _sends(self) -> bool:
        """Stages 2 and 3 keep no sums of their own: they send within `no_sync`, too."""
        return self.is_synchronised or self._memory.stage > 1

    def _finish(self) -> None:
        if self.leaves_gradients:
            self._reset()
            return
        self._reducer.finish(self.weight, self._sends)
        if self.is_synchronised:
            self._complete()
        else:
            self._reducer.wait()
        if self._gathering is not None and not self._is_whole:
            self._gathering.end_backward()
        self._agree()
        self._reset()

    def synchronise(self) -> None:
        """Average what backward passes inside `no_sync` have left."""
        if self._memory.stage == 1:
            self._reducer.take_left(self.weight)
        self._reducer.send_own()
        self._complete()

    def _complete(self) -> None:
        self._controls.start()
        self._reducer.wait()
        self._controls.finish()
        if self._memory.precision == torch.float16:
            spread_overflow(local_grads(self._optimizer), self._transport, self._controls.device)

    def _agree(self) -> None:
        """Once: the order of rank 0's first forward, then whatever only others used."""
        if self._is_agreed or self._is_whole:
            return
        needed = self._gathering.needed if self._gathering is not None else []
        everyones = self._transport.all_gather_object((self._seen, needed))
        orders = [*(order for order, _ in everyones), range(1, len(self.units))]
        numbers = dict.fromkeys([0, *(number for order in orders for number in order)])
        ordered = [self.units[number] for number in numbers]
        self._reducer = Reducer(ordered[::-1])
        if self._gathering is not None:
            self._gathering.arrange(ordered, [n for _, needed in everyones for n in needed])
        self._is_agreed = True

    def _reset(self) -> None:
        self._is_running = False
        self._reducer.reset()

    # step

    def _before_step(self, *args: Any) -> None:
        if any(unit.has_own_gradients for unit in self.units):
            raise UsageError("backward ran inside no_sync alone: leave it before step()")

    def _after_step(self, *args: Any) -> None:
        grads = local_grads(self._optimizer)
        self._used = (grads[0], grads[0]._version) if grads else None
        self.reload()

    def _warn_of_used_gradients(self) -> None:
        """Nobody wants those of the last step once more, and model.zero_grad() cannot know them."""
        used, self._used = self._used, None
        if used is None or self._has_warned or used[0]._version != used[1]:
            return
        if any(grad is used[0] for grad in local_grads(self._optimizer)):
            self._has_warned = True
            log.warning(
                "gradients of the last step are still there, and the next are added to them:"
                " clear them by optimizer.zero_grad()"
            )

    def reload(self) -> None:
        """This rank's pieces have changed: have the parameters follow."""
        self._expire()
        if self._gathering is None or self._is_whole:
            self._gather()

    def _expire(self) -> None:
        for unit in self.units:
            unit.expire()

    def _gather(self) -> None:
        for unit in self.units:
            unit.start_gather()
        for unit in self.units:
            unit.finish_gather()

    # what is kept

    def held(self) -> list[Held]:
        """What this rank keeps of the model."""
        return [held for unit in self.units for block in unit.blocks for held in block.held()]

    def nbytes(self) -> dict[str, int]:
        """Bytes of parameters and gradients on this rank."""
        blocks = [block for unit in self.units for block in unit.blocks]
        gradients = sum(unit.gradient_bytes for unit in self.units)
        return {"parameters": sum(b.nbytes for b in blocks), "gradients": gradients}

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
