"""Weights that several stages use, such as an embedding that is the output layer as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dto.runtime.pipeline.links import Links, Message, Shape, What


@dataclass(frozen=True)
class Tied:
    """One parameter that several stages hold; `number` is the same on all of them."""

    number: int
    parameter: nn.Parameter
    stages: Sequence[int]


class TiedWeights:
    """Sums the gradients of tied weights.

    Every holder adds them up in the order of the stages, so the copies stay equal bit by bit.
    """

    def __init__(self, links: Links, held: Sequence[Tied]) -> None:
        self._links, self._held = links, held
        self._before: list[torch.Tensor | None] = []

    def set_aside(self) -> None:
        """Keep what earlier batches left: it is summed already."""
        self._before = [tied.parameter.grad for tied in self._held]
        for tied in self._held:
            tied.parameter.grad = None

    def add_up(self) -> None:
        """Give every holder the whole gradient of this batch, and what was set aside."""
        links = self._links
        sent = [
            links.send(Message(What.TIED, peer, tied.number), [_gradient(tied.parameter)])
            for tied in self._held
            for peer in tied.stages
            if peer != links.stage
        ]
        sums = [self._sum(tied) for tied in self._held]
        for one in sent:
            one.wait()
        for tied, before, total in zip(self._held, self._before, sums, strict=True):
            tied.parameter.grad = total if before is None else before.add_(total)

    def _sum(self, tied: Tied) -> torch.Tensor:
        parameter, total = tied.parameter, torch.zeros_like(tied.parameter)
        shape = Shape(tuple(parameter.shape), parameter.dtype, False)
        for stage in tied.stages:
            if stage == self._links.stage:
                total += _gradient(parameter)
            else:
                coming = self._links.receive(Message(What.TIED, stage, tied.number), [shape])
                total += coming.wait()[0]
        return total


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
