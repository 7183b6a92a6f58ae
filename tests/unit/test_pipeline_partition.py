"""Where a model may be cut, and where it is cut best."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dto.errors import ConfigError
from dto.runtime.pipeline.partition import cut, layers_of, measure_costs


def dearest(costs: list[float], parts: list[range]) -> float:
    return max(sum(costs[n] for n in part) for part in parts)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(1, 8))
def test_no_other_cut_is_cheaper(whole: list[int], parts: int) -> None:
    costs = [float(cost) for cost in whole]
    if parts > len(costs):
        with pytest.raises(ConfigError, match=f"{parts} stages for {len(costs)} layers"):
            cut(costs, parts)
        return
    found = cut(costs, parts)
    assert [n for part in found for n in part] == list(range(len(costs)))
    assert len(found) == parts and all(found)
    every = [
        [range(a, b) for a, b in itertools.pairwise([0, *ends, len(costs)])]
        for ends in itertools.combinations(range(1, len(costs)), parts - 1)
    ]
    assert dearest(costs, found) == min(dearest(costs, other) for other in every)


def test_a_model_says_how_it_may_be_cut_or_is_refused() -> None:
    class Plain(nn.Module):
        pass

    class Staged(nn.Module):
        def pipeline_stages(self) -> list[nn.Module]:
            return [nn.Tanh(), nn.ReLU()]

    assert [type(layer) for layer in layers_of(Staged())] == [nn.Tanh, nn.ReLU]
    assert len(layers_of(nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh()))) == 3
    assert len(layers_of([nn.Tanh()])) == 1
    with pytest.raises(ConfigError, match=r"cannot cut Plain.*pipeline_stages\(\)"):
        layers_of(Plain())
    with pytest.raises(ConfigError, match="list of modules"):
        layers_of([])


def test_measuring_costs_leaves_gradients_and_the_sample_alone() -> None:
    layers = [nn.Embedding(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Flatten()]
    sample = torch.arange(5)
    costs = measure_costs(layers, sample)
    assert len(costs) == 4 and min(costs) > 0
    assert all(p.grad is None for layer in layers for p in layer.parameters())
    assert sample.tolist() == [0, 1, 2, 3, 4]
