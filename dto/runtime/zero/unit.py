"""A module whose parameters are gathered together, and how far its backward has come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dto.runtime.transport import Transport
from dto.runtime.zero.block import Block, Memory
from dto.runtime.zero.gradients import Gradients
from dto.runtime.zero.hooks import tensors_in
from dto.runtime.zero.layout import lay_out
from dto.runtime.zero.units import UnitPlan


class Unit:
    """Blocks of parameters, one for each dtype among the trained and the frozen ones."""

    def __init__(
        self,
        number: int,
        plan: UnitPlan,
        params: Mapping[str, nn.Parameter],
        groups: Mapping[int, int],
        memory: Memory,
        transport: Transport,
    ) -> None:
        self.number, self.name, self.module = number, plan.name, plan.module
        kinds: dict[Any, list[str]] = {}
        for name in plan.parameters:
            kinds.setdefault((params[name].dtype, params[name].requires_grad), []).append(name)
        self.blocks: list[Block] = []
        for names in kinds.values():
            shapes = [tuple(params[name].shape) for name in names]
            chosen = [groups[id(params[name])] for name in names]
            layout = lay_out([plain(n) for n in names], shapes, chosen, transport.size)
            ordered = [names[n] for n in sorted(range(len(names)), key=lambda n: chosen[n])]
            members = [params[name] for name in ordered]
            self.blocks.append(Block(self.name, members, layout, memory, transport))
        trained = [block for block in self.blocks if block.is_trained]
        self.trained = [param for block in trained for param in block.params]
        self.has_frozen = len(trained) < len(self.blocks)
        self._gradients = [Gradients(block, transport) for block in trained]
        self.inputs_left = 0
        self.reset()

    # parameters

    @property
    def is_gathered(self) -> bool:
        return all(block.is_gathered for block in self.blocks)

    def start_gather(self) -> None:
        for block in self.blocks:
            block.start_gather()

    def finish_gather(self) -> None:
        for block in self.blocks:
            block.finish_gather()

    def free(self) -> None:
        for block in self.blocks:
            block.finish_gather()
            block.free()

    def expire(self) -> None:
        for block in self.blocks:
            block.finish_gather()
            block.expire()

    def lends(self, output: Any) -> bool:
        """Whether an output lies in the memory of the parameters themselves."""
        mine = {block.flat.untyped_storage().data_ptr() for block in self.blocks}
        views = (t for t in tensors_in(output) if t._is_view() or t.is_leaf)
        return any(t.untyped_storage().data_ptr() in mine for t in views)

    # gradients

    def reset(self) -> None:
        """Before a backward: nothing has arrived."""
        self.missing = len(self.trained)
        self._arrived = [False] * self.missing

    def arrive(self, number: int) -> bool:
        """The gradient of `trained[number]` is there; returns False for a second time."""
        if self._arrived[number]:
            return False
        self._arrived[number] = True
        self.missing -= 1
        return True

    @property
    def is_done(self) -> bool:
        """Whether its part of backward is over, and its parameters are of no more use there."""
        return not self.missing and self.inputs_left <= 0

    @property
    def has_own_gradients(self) -> bool:
        return any(gradients.has_own for gradients in self._gradients)

    @property
    def gradient_bytes(self) -> int:
        return sum(gradients.nbytes for gradients in self._gradients)

    def take_gradients(self, weight: float) -> None:
        for gradients in self._gradients:
            gradients.take(weight)

    def start_reduce(self) -> None:
        for gradients in self._gradients:
            gradients.start()

    def finish_reduce(self) -> None:
        for gradients in self._gradients:
            gradients.finish()


def plain(name: str) -> str:
    """A parameter's name in checkpoints, whether or not torch.compile wraps the module."""
    return name.replace("_orig_mod.", "")
