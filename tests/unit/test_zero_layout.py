"""Where parameters lie when ranks cut them up, and which are gathered together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dto.errors import ConfigError
from dto.runtime.zero.layout import NO_GROUP, Layout, lay_out
from dto.runtime.zero.units import plan_units

SHAPES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), max_size=3).map(tuple), st.sampled_from([0, 1, NO_GROUP])
    ),
    min_size=1,
    max_size=8,
)


def make(shapes: list[tuple[tuple[int, ...], int]], world: int) -> Layout:
    names = [f"p{number}" for number in range(len(shapes))]
    return lay_out(names, [s for s, _ in shapes], [g for _, g in shapes], world)


@given(SHAPES, st.integers(1, 7))
def test_every_element_is_kept_by_one_rank_in_its_own_group(
    shapes: list[tuple[tuple[int, ...], int]], world: int
) -> None:
    layout = make(shapes, world)
    kept = []
    for rank in range(world):
        for span in layout.spans(rank):
            assert 0 <= span.begin < span.end <= layout.segment
            assert sum(part.end - part.begin for part in span.parts) == span.end - span.begin
            for part in span.parts:
                assert shapes[int(part.name[1:])][1] == span.group
                kept += [(part.name, element) for element in range(part.begin, part.end)]
    sizes = {f"p{n}": torch.Size(shape).numel() for n, (shape, _) in enumerate(shapes)}
    assert sorted(kept) == sorted((name, n) for name, size in sizes.items() for n in range(size))


@given(SHAPES, st.integers(1, 7))
def test_padding_is_less_than_an_element_a_rank(
    shapes: list[tuple[tuple[int, ...], int]], world: int
) -> None:
    layout = make(shapes, world)
    assert 0 <= layout.padded - layout.numel < world
    assert layout.padded == layout.segment * world


@given(SHAPES, st.integers(1, 7))
def test_a_part_says_where_it_lies_in_the_flat_tensor(
    shapes: list[tuple[tuple[int, ...], int]], world: int
) -> None:
    layout = make(shapes, world)
    begins = {slot.name: slot.begin for slot in layout.slots}
    for rank in range(world):
        for span in layout.spans(rank):
            for part in span.parts:
                place = rank * layout.segment + span.begin + part.at
                assert place == begins[part.name] + part.begin


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        self.attention = nn.MultiheadAttention(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.lone = Block(8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.token.weight
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def names(model: nn.Module, rule: int | list[str]) -> list[str]:
    return [unit.name for unit in plan_units(model, rule)]


def test_a_small_model_is_one_unit() -> None:
    (root,) = plan_units(Model())
    assert root.name == "" and len(root.parameters) == len(list(Model().parameters()))


def test_blocks_that_repeat_stay_whole_and_a_lone_one_is_opened_up_to_torchs_own() -> None:
    inside = ["lone.inner", "lone.attention"]
    assert names(Model(), 100) == ["", "blocks.0", "blocks.1", "blocks.2", *inside]
    assert names(Model(), 2000)[-1] == "lone"


def test_tied_and_directly_held_parameters_belong_to_the_root() -> None:
    root, *others = plan_units(Model(), 100)
    assert root.parameters == ("scale", "token.weight")
    found = [name for unit in others for name in unit.parameters]
    every = [name for name, _ in Model().named_parameters()]
    assert sorted([*root.parameters, *found]) == sorted(every)


def test_patterns_name_units_and_the_outermost_match_holds_all_below() -> None:
    assert names(Model(), ["blocks.*", "head"]) == ["", "blocks.0", "blocks.1", "blocks.2"]
    assert names(Model(), ["*.inner"])[1:] == [f"blocks.{n}.inner" for n in range(3)] + [
        "lone.inner"
    ]


def test_a_pattern_that_names_nothing_to_gather_is_refused() -> None:
    for pattern in ("layers.*", "blocks"):  # a ModuleList is never called
        with pytest.raises(ConfigError, match=f"is called is named '{pattern[:6]}"):
            plan_units(Model(), [pattern])
