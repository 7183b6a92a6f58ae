"""Plans hold every parameter once and are balanced; a user's rules are followed or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dto.errors import ConfigError
from dto.runtime.choice import choose, shard
from dto.runtime.config_file import ConfigFile
from dto.runtime.pipeline.partition import count_costs, cut, layers_of
from dto.runtime.sharding import (
    Rules,
    cut_by,
    make_plan,
    matching,
    read_rules,
    repeated,
    stage_costs,
)
from examples.resnet import ResNet18
from examples.tiny_gpt import TinyGPT
from tests.helpers import EXAMPLES

widths = st.lists(st.integers(1, 9), min_size=2, max_size=9)


def gpt(layers: int = 4) -> TinyGPT:
    return TinyGPT(context=8, width=8, heads=2, layers=layers)


def chain(sizes: list[int]) -> nn.Sequential:
    """Linear layers with activations between them, which have no parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers)


def names(model: nn.Module) -> list[str]:
    return sorted(name for name, _ in model.named_parameters())


def test_repeated_blocks_are_units_and_single_modules_are_not() -> None:
    assert repeated(gpt()) == [f"layers.{n}" for n in range(4)]
    assert repeated(ResNet18(width=4)) == [f"blocks.{n}" for n in range(8)]
    assert repeated(nn.Linear(2, 2)) == []


@given(widths, st.data())
def test_a_plan_holds_every_parameter_once(sizes: list[int], data: st.DataObject) -> None:
    model = chain(sizes)
    plan = make_plan(model, Rules(), data.draw(st.integers(1, len(sizes) - 1)))
    assert sorted(name for held in plan.units.values() for name in held) == names(model)
    if plan.stages:
        assert sorted(name for held in plan.stages for name in held) == names(model)


@given(widths, st.data())
def test_the_largest_stage_is_at_most_an_equal_share_and_one_layer(
    sizes: list[int], data: st.DataObject
) -> None:
    costs = count_costs(layers_of(chain(sizes)))
    parts = data.draw(st.integers(1, len(costs)))
    largest = max(sum(costs[n] for n in part) for part in cut(costs, parts))
    assert largest <= sum(costs) / parts + max(costs)


@pytest.mark.parametrize("model", [gpt(), ResNet18(width=4)], ids=["gpt", "resnet"])
def test_weights_that_are_shared_stand_in_a_plan_once(model: nn.Module) -> None:
    plan = make_plan(model, Rules(), 2)
    for groups in (list(plan.units.values()), plan.stages):
        assert sorted(name for held in groups for name in held) == names(model)


def test_what_two_units_share_belongs_to_neither() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    units = make_plan(model, Rules(units=("a", "b")), 1).units
    assert units == {"": ("a.weight",), "a": ("a.bias",), "b": ("b.bias",)}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_pipeline_is_cut_exactly_where_rules_say(counts: list[int]) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(sum(counts))))
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    wanted = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
    stages = [[str(n) for n in part] for part in wanted]
    costs = stage_costs(model, stages, len(stages))
    assert costs is not None and cut(costs, len(stages)) == wanted


def test_layers_without_parameters_stay_with_the_one_before() -> None:
    layers = [["0.weight"], [], ["2.weight"], []]
    assert cut_by(layers, [["0"], ["2"]]) == [range(2), range(2, 4)]


def test_a_name_is_not_matched_by_the_beginning_of_another() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(11)))
    assert matching(model, ["1"]) == ["1"]
    assert cut_by([["layers.1.w"], ["layers.10.w"]], [["layers.1"], ["layers.10"]])


def test_the_shipped_rules_fit_the_model_they_are_for() -> None:
    rules = read_rules(EXAMPLES / "sharding.yaml")
    plan = make_plan(gpt(), rules, 2)
    assert list(plan.units) == ["", "layers.0", "layers.1", "layers.2", "layers.3"]
    first, last = plan.stages
    assert "token.weight" in first and any(name.startswith("layers.0.") for name in first)
    assert "norm.bias" in last and not any(name.startswith("layers.0.") for name in last)


STAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    r"no layer of the model matches 'nothing'": (("*",), ("nothing",)),
    r"no stage holds norm.weight": (("token", "place", "layers.0"), ("layers.[123]",)),
    r"stages 0 and 1 both hold layers.3.norm1.weight": (("*",), ("layers.3",)),
    r"are one layer: give it one stage": (("token",), ("place", "layers", "norm")),
    r"layers.1.\S+ comes too early": (("layers.1", "token", "place"), ("layers.[023]", "norm")),
    r"the rules have 3 stages and the pipeline has 2": (("token",), ("layers",), ("norm",)),
}


@pytest.mark.parametrize("words", STAGES)
def test_stages_that_do_not_fit_are_one_line(words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_plan(gpt(), Rules(stages=STAGES[words]), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (("blocks.*",), r"no module of TinyGPT with parameters matches the unit 'blocks.\*'"),
        (("layers", "layers.0"), "unit layers.0 lies in unit layers"),
    ],
)
def test_units_that_do_not_fit_are_one_line(units: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_plan(gpt(), Rules(units=units), 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rules"),
        ("unit: [a]", "unknown part 'unit'"),
        ("units: a", "units must be a list of patterns"),
        ("units: []", "units must be a list of patterns"),
        ("stages: {a: b}", "one list of patterns per stage"),
        ("stages: [a]", "a stage must be a list of patterns"),
        ("tensor: [a]", "`pattern: role` lines"),
    ],
)
def test_rules_in_another_form_are_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_rules(tmp_path / "rules.yaml")


def sharded(**settings: object) -> tuple[dict[str, object], str]:
    """Options and the line about sharding for TinyGPT on four ranks."""
    config = ConfigFile(num_gpus=4, **settings)  # type: ignore[arg-type]
    choice = shard(config, choose(config, 4, has_gpus=False), gpt())
    lines = [one for one in choice.reasons if one.startswith("sharding_strategy")]
    return dict(choice.options), "\n".join(lines)


def test_what_is_cut_is_logged_with_its_sizes() -> None:
    options, line = sharded(zero_redundancy=True)
    assert options["units"] == [f"layers.{n}" for n in range(4)]
    assert "auto -> repeated blocks are units: the rest 2,128, layers.0 to layers.3 872" in line
    options, line = sharded(pipeline_parallelism=True)
    assert options["stages"] is None and "units" not in options
    assert "auto -> equal numbers of parameters: stage 0 " in line
    options, line = sharded()
    assert line == "sharding_strategy: auto -> nothing of the model is cut"


def test_rules_of_a_file_become_options_and_what_is_idle_is_told() -> None:
    manual = {"sharding_strategy": "manual", "sharding_rules": EXAMPLES / "sharding.yaml"}
    options, line = sharded(pipeline_parallelism=True, zero_redundancy=True, **manual)
    stages = options["stages"]
    assert isinstance(stages, tuple) and stages[0] == ("token", "place", "layers.0")
    assert "manual -> as the rules say: stage 0 " in line
    assert "units and tensor of the rules are not used" in line
    options, line = sharded(tensor_parallelism=2, **manual)
    assert options["tensor_plan"] == {"layers.*.feed.0": "column", "layers.*.feed.2": "row"}
