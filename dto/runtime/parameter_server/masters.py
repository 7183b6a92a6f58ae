"""A server's share of the parameters, and the optimizer's step on it."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch.optim import Optimizer


class Masters:
    """The parameters as they really are; workers hold copies, each as old as its last pull.

    The optimizer that the user made holds the masters from now on (and nothing on a rank that
    serves nothing), so that learning rates, hooks, schedulers and checkpoints are where they are
    always looked for. Masters never have a gradient there: the user's own `optimizer.step()` does
    nothing to them. Steps are taken by a twin of the optimizer, at whatever moment a push comes;
    twin and optimizer share their state.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[torch.Tensor]) -> None:
        own = [p.detach().cpu().reshape(-1) for p in parameters]
        self.flat = torch.cat(own) if own else torch.empty(0)
        """All masters in a row, in host memory."""
        self._pieces = [p.numel() for p in parameters]
        self._shapes = [p.shape for p in parameters]
        self.tensors = self.views(self.flat)
        self._optimizer = optimizer
        self._stand_ins = [master.detach() for master in self.tensors]
        numbers = {id(p): number for number, p in enumerate(parameters)}
        self._twin = _twin_of(optimizer)
        for group, twin_group in zip(optimizer.param_groups, self._twin.param_groups, strict=True):
            mine = [numbers[id(p)] for p in group["params"] if id(p) in numbers]
            group["params"] = [self.tensors[number] for number in mine]
            twin_group["params"] = [self._stand_ins[number] for number in mine]
        before, optimizer.state = optimizer.state, defaultdict(dict)
        for parameter, master in zip(parameters, self.tensors, strict=True):
            if parameter in before:
                optimizer.state[master] = before[parameter]

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """A row of values, cut into the parameters' shapes."""
        parts = torch.split(flat, self._pieces) if self._pieces else ()
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def step(self, gradients: torch.Tensor, used: Sequence[bool], scale: float = 1.0) -> None:
        """Let the optimizer step; a parameter that was not used has no gradient."""
        if not any(used):
            return
        if scale != 1.0:
            gradients = gradients * scale
        for stand_in, view, is_used in zip(
            self._stand_ins, self.views(gradients), used, strict=True
        ):
            stand_in.grad = view if is_used else None
        self._fetch_settings()
        self._twin.step()
        for master, stand_in in zip(self.tensors, self._stand_ins, strict=True):
            stand_in.grad = None
            if self._twin.state.get(stand_in):
                self._optimizer.state[master] = self._twin.state[stand_in]

    def _fetch_settings(self) -> None:
        """Learning rates as they are now, and a state that may have been loaded meanwhile."""
        groups = zip(self._optimizer.param_groups, self._twin.param_groups, strict=True)
        for group, twin_group in groups:
            twin_group.update({key: group[key] for key in group if key != "params"})
        for master, stand_in in zip(self.tensors, self._stand_ins, strict=True):
            if master in self._optimizer.state:
                self._twin.state[stand_in] = self._optimizer.state[master]


def _twin_of(optimizer: Optimizer) -> Optimizer:
    """Another optimizer of the same kind and settings, without hooks, state and parameters."""
    twin = copy.copy(optimizer)
    twin.__dict__ = {**optimizer.__dict__, **twin.__dict__}
    twin.__dict__.pop("step", None)  # a scheduler's wrapper, which counts
    twin.state = defaultdict(dict)
    twin.param_groups = [{**group, "params": []} for group in optimizer.param_groups]
    return twin
