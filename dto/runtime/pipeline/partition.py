"""Which layers go to which part of the pipeline: contiguous, the most expensive part cheapest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from dto.errors import ConfigError


def layers_of(model: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    """What a model can be cut into: modules that are called one after the other.

    Raises:
        ConfigError: the model does not say.
    """
    if isinstance(model, nn.Module):
        stages = getattr(model, "pipeline_stages", None)
        if stages is not None:
            layers: Iterable[Any] = stages()
        elif isinstance(model, nn.Sequential):
            layers = model
        else:
            raise ConfigError(
                f"a pipeline cannot cut {type(model).__name__}: make it an nn.Sequential, or give"
                " it pipeline_stages(), which returns its modules in the order of their calls"
            )
    else:
        layers = model
    found = list(layers)
    if not found or not all(isinstance(layer, nn.Module) for layer in found):
        raise ConfigError("a pipeline needs a list of modules, each called with the last's output")
    return found


def cut(costs: Sequence[float], parts: int) -> list[range]:
    """Cut layers into contiguous parts such that the dearest part costs as little as can be.

    Exact, by dynamic programming: O(layers² · parts). Among equals the earliest cuts win.

    Raises:
        ConfigError: there are fewer layers than parts.
    """
    if parts > len(costs):
        raise ConfigError(
            f"{parts} stages for {len(costs)} layers: each stage needs at least one;"
            f" use at most {len(costs)} (stages times chunks)"
        )
    before = [0.0]
    for cost in costs:
        before.append(before[-1] + cost)
    # best[n]: the dearest part where the first n layers are cut into as many parts as rows so far
    best = [0.0] + [float("inf")] * len(costs)
    begins: list[list[int]] = []
    for _ in range(parts):
        row, chosen = [float("inf")], [0]
        for end in range(1, len(costs) + 1):
            dearest = [max(best[begin], before[end] - before[begin]) for begin in range(end)]
            row.append(min(dearest))
            chosen.append(dearest.index(row[-1]))
        best = row
        begins.append(chosen)
    found, end = [], len(costs)
    for chosen in reversed(begins):
        found.append(range(chosen[end], end))
        end = chosen[end]
    return found[::-1]


def count_costs(layers: Sequence[nn.Module]) -> list[float]:
    """The cost of layers where nobody measured: their parameters (and 1 for being there)."""
    return [1.0 + sum(p.numel() for p in layer.parameters()) for layer in layers]


def measure_costs(layers: Sequence[nn.Module], sample: Any, repeats: int = 5) -> list[float]:
    """Seconds that each layer takes, forward and backward, for one micro-batch `sample`.

    Gradients are left as they were. Buffers, such as BatchNorm's means, are not: measure a copy
    if that matters.
    """
    costs = []
    value = sample
    for layer in layers:
        given = _leaves(value)
        inputs = given if isinstance(given, tuple) else (given,)
        parameters = [p for p in layer.parameters() if p.requires_grad]
        seconds = []
        for _ in range(repeats + 1):
            begin = time.perf_counter()
            value = layer(_copies(given))
            outputs = value if isinstance(value, tuple) else (value,)
            _backward(outputs, [*parameters, *(x for x in inputs if x.requires_grad)])
            seconds.append(time.perf_counter() - begin)
        costs.append(statistics.median(seconds[1:]))  # the first one warms up
    return costs


def _leaves(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_leaves(one) for one in value)
    return value.detach().requires_grad_(value.is_floating_point())


def _copies(value: Any) -> Any:
    """A layer may change its input in place, which a leaf forbids."""
    return tuple(x.clone() for x in value) if isinstance(value, tuple) else value.clone()


def _backward(outputs: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> None:
    """Make the gradients and throw them away."""
    ends = [output for output in outputs if output.requires_grad]
    if ends and leaves:
        torch.autograd.grad(ends, leaves, [torch.ones_like(e) for e in ends], allow_unused=True)
