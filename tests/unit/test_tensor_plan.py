"""What a tensor plan may say, how weights are cut by it, and that one rank is no special case."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import dto
from dto.errors import ConfigError
from dto.runtime.recipe import recipe_of
from dto.runtime.tensor.cuts import Cut
from dto.runtime.tensor.layers import ColumnLinear
from dto.runtime.tensor.plan import Role, check_roles, read_plan, read_role


@pytest.mark.parametrize("cut", [Cut(0), Cut(1), Cut(0, 3), Cut(1, 2)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_of_all_ranks_are_the_whole_weight_once(cut: Cut, size: int) -> None:
    whole = torch.arange(18.0 * 12).reshape(18, 12)
    pieces = [cut.take(whole, rank, size) for rank in range(size)]
    assert torch.equal(cut.join(pieces), whole)
    again = torch.full((18 * 12,), -1.0)
    for rank, piece in enumerate(pieces):
        parts = cut.parts("w", whole.shape, rank, size)
        assert sum(part.end - part.begin for part in parts) == piece.numel()
        for part in parts:
            again[part.begin : part.end] = part.of(piece)
    assert torch.equal(again, whole.flatten())


def test_a_fused_layer_gives_every_rank_some_of_each_block() -> None:
    rows = torch.arange(12)
    assert Cut(0, 3).take(rows, 1, 2).tolist() == [2, 3, 6, 7, 10, 11]


def test_roles_are_read_as_they_are_written() -> None:
    assert read_role("column") == Role("column")
    assert read_role("column:3x16") == Role("column", 3, 16)
    for text in ("col", "row:2", "column:0", "column:3x", "", "COLUMN"):
        with pytest.raises(ConfigError, match='use "column", "column:3"'):
            read_role(text)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6))
    model[1].weight = model[0].weight
    return model


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2)


@pytest.mark.parametrize(
    ("model", "plan", "says"),
    [
        (small(), None, r"how to cut Sequential: give it a plan such as .* or the model a tensor_"),
        (small(), {"up": "column"}, "no module of Sequential matches 'up' of the tensor plan"),
        (small(), {"0": "column", "?": "row"}, "two patterns of the plan match 0"),
        (small(), {"1": "sequence"}, "the plan cuts nothing"),
        (small(), {"1": "column"}, "only a plain nn.Linear can be cut, and 1 is of ReLU"),
        (Attention(), {"*.out_proj": "row"}, "inner.out_proj is of NonDynamically"),
        (tied(), {"1": "column"}, "1 shares its weight with another module"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    model: nn.Module, plan: dict[str, str] | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        dto.TensorParallel(model, plan)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"backend": "jax"}, "no tensor backend 'jax': use one of dto, torch"),
        ({"sequence_parallel": True}, 'needs a module with the role "sequence"'),
        ({"plan": {"0": "column", "2": "row", "": "sequence"}, "sequence_parallel": True,
          "backend": "torch"}, "backend torch does not cut sequences"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dto.TensorParallel(small(), **{"plan": {"0": "column", "2": "row"}, **more})


def test_a_pipeline_does_not_go_with_cut_sequences() -> None:
    recipe = recipe_of({"strategy": "tensor", "mesh": {"pp": 2}, "sequence_parallel": True})
    with pytest.raises(ConfigError, match="leave it out, or use a mesh of dp and tp"):
        recipe.layout(4)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no parameters"):
        dto.TensorParallel(nn.ReLU(), {"0": "column"})


def test_sizes_are_checked_before_anything_is_cut() -> None:
    model = small()
    with pytest.raises(ConfigError, match="0 has 6 outputs, which 4 ranks cannot share evenly"):
        check_roles(model, read_plan(model, {"0": "column", "2": "row"}), 4)
    assert type(model[0]) is nn.Linear


def test_one_rank_alone_keeps_model_layers_and_optimizer() -> None:
    model = small()
    alone, first = copy.deepcopy(model), model[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tensor = dto.TensorParallel(model, {"0": "column", "2": "row"})
    reference = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    x = torch.arange(12.0).reshape(3, 4)
    for one, stepper in ((model, optimizer), (alone, reference)):
        for _ in range(3):
            stepper.zero_grad()
            one(x).square().mean().backward()
            stepper.step()
    assert model[0] is first and isinstance(first, ColumnLinear)
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [one.tensor for one in tensor.held()] == list(model.parameters())
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(x), model(x))
    with tensor.whole():
        torch.testing.assert_close(model(x), alone(x))
