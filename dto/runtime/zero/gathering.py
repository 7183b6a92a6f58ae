"""Stage 3: which units are whole when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from dto.runtime.zero.hooks import tensors_in
from dto.runtime.zero.line import Line
from dto.runtime.zero.unit import Unit


class Gathering:
    """Gathers each unit before its forward, frees it after, and again around its backward.

    The root, and the unit that backward begins with, stay in between. So does a unit whose output
    is of its own memory, or holds nothing that backward could be followed by.
    """

    def __init__(self, units: Sequence[Unit], before_backward: Callable[[Unit], None]) -> None:
        """`before_backward` is called when the gradient of a unit's output is known."""
        self._units, self._root = units, units[0]
        self._before_backward = before_backward
        self._kept: list[Unit] = []
        self._needed: set[int] = set()
        self.arrange(units, range(len(units)))

    def arrange(self, ordered: Sequence[Unit], needed: Sequence[int]) -> None:
        """Units as forward comes by them, the root first, and the numbers of those that backward
        needs besides it."""
        self._last = ordered[-1]
        back = [unit for unit in reversed(ordered[1:]) if unit.number in needed]
        self._forward, self._backward = Line(ordered), Line([self._root, *back])

    @property
    def needed(self) -> list[int]:
        """Numbers of the units that a backward has needed so far."""
        return sorted(self._needed)

    # forward

    def begin_forward(self) -> None:
        self._kept.clear()
        self._forward.begin()
        self._forward.need(self._root)

    def before_unit(self, unit: Unit, inputs: Any) -> None:
        if not self._root.is_gathered:  # called by itself, not by the model
            self._forward.need(self._root)
        self._forward.need(unit)
        if unit.has_frozen and torch.is_grad_enabled():
            self._follow_inputs(unit, inputs)

    def _follow_inputs(self, unit: Unit, inputs: Any) -> None:
        """Frozen parameters have no gradient that tells when they are done with."""

        def arrived(grad: torch.Tensor) -> None:
            unit.inputs_left -= 1
            self.free_done(unit)

        for tensor in tensors_in(inputs):
            if tensor.requires_grad:
                unit.inputs_left += 1
                tensor.register_hook(arrived)  # type: ignore[no-untyped-call]

    def follow_outputs(self, unit: Unit, output: Any) -> bool:
        """Have the unit back before its backward; False where no output would tell of it."""
        if not torch.is_grad_enabled():
            return False
        found = [t for t in tensors_in(output) if t.requires_grad and not t.is_leaf]
        # an in-place operation on a view would lose the view's hook, not that of what it views
        bases = [t._base for t in found if t._base is not None and t._base.grad_fn is not None]
        for tensor in [*found, *bases]:
            hook = partial(self._gradient_known, unit)
            tensor.register_hook(hook)  # type: ignore[no-untyped-call]
        return bool(found)

    def _gradient_known(self, unit: Unit, grad: torch.Tensor) -> None:
        self._before_backward(unit)

    def after_unit(self, unit: Unit, output: Any) -> None:
        is_followed = self.follow_outputs(unit, output)
        is_odd = torch.is_grad_enabled() and bool(unit.trained) and not is_followed
        if is_odd or (is_followed and unit is self._last) or unit.lends(output):
            self._kept.append(unit)
        else:
            unit.free()

    def end_forward(self, output: Any) -> None:
        is_followed = self.follow_outputs(self._root, output)
        self._forward.drain()
        if is_followed or self._root.lends(output):
            self._kept.append(self._root)
        for unit in self._units:
            if unit not in self._kept:
                unit.free()

    # backward

    def begin_backward(self) -> None:
        self._backward.begin()
        self._backward.need(self._root)

    def need(self, unit: Unit) -> None:
        """Its backward is next."""
        self._needed.add(unit.number)
        self._backward.need(unit)

    def free_done(self, unit: Unit) -> None:
        """Free it, if its backward is over."""
        if unit is not self._root and unit.is_done:
            unit.free()

    def end_backward(self) -> None:
        self._backward.drain()
        for unit in self._units:
            unit.free()
