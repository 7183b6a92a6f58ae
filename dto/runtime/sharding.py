"""Where a model is cut: by a simple rule, or by the user's file of rules; names in, names out.

A file of rules has up to three parts, all of them patterns (`*` stands for anything):

    units: ["layers.*"]                      # modules that ZeRO gathers and lets go of as one
    stages:                                  # what each pipeline stage holds, in the order of calls
      - [token, place, layers.0]
      - [layers.1, norm]
    tensor: {"layers.*.out": row}            # how tensor parallelism cuts a layer: `tensor_plan`
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from dto.config.yaml_text import read_yaml
from dto.errors import ConfigError
from dto.runtime.pipeline.partition import count_costs, cut, layers_of

_PARTS = ("units", "stages", "tensor")


@dataclass(frozen=True)
class Rules:
    """What a file of rules says; a part that is left out is decided by the simple rule."""

    units: tuple[str, ...] | None = None
    stages: tuple[tuple[str, ...], ...] | None = None
    tensor: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Plan:
    """Which parameters go together. In `units` and in `stages` each stands exactly once."""

    units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameters by the module that holds them; "" has the rest."""
    stages: tuple[tuple[str, ...], ...] = ()
    """Parameters of each stage; one that several layers share is where it is used first."""


def read_rules(path: Path) -> Rules:
    """Read a file of rules.

    Raises:
        ConfigError: it cannot be read, or does not have this form.
    """
    written = read_yaml(path)
    unknown = [name for name in written if name not in _PARTS]
    if unknown or not written:
        found = f"an unknown part {unknown[0]!r}" if unknown else "no rules"
        raise ConfigError(f"{path} has {found}: a file of rules has {', '.join(_PARTS)}")
    units, stages, tensor = (written.get(name) for name in _PARTS)
    if stages is not None and not (isinstance(stages, list) and stages):
        raise ConfigError(f"{path}: stages must be a list with one list of patterns per stage")
    if tensor is not None and not (
        isinstance(tensor, dict) and all(isinstance(role, str) for role in tensor.values())
    ):
        raise ConfigError(f"{path}: tensor must hold `pattern: role` lines")
    return Rules(
        None if units is None else _patterns(path, "units", units),
        None if stages is None else tuple(_patterns(path, "a stage", one) for one in stages),
        tensor,
    )


def _patterns(path: Path, part: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(one, str) and one for one in value):
        return tuple(value)
    raise ConfigError(f"{path}: {part} must be a list of patterns, such as [layers.*]")


# ZeRO: which modules are units


def repeated(model: nn.Module) -> list[str]:
    """The simple rule: of an nn.Sequential or nn.ModuleList the children of equal kind."""
    return list(_repeated("", model))


def _holds(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _repeated(name: str, module: nn.Module) -> Iterator[str]:
    children = [(key, child) for key, child in module.named_children() if _holds(child)]
    kinds = Counter(type(child) for _, child in children)
    is_list = isinstance(module, (nn.Sequential, nn.ModuleList))
    for key, child in children:
        full = f"{name}.{key}" if name else key
        if is_list and kinds[type(child)] > 1:
            yield full
        else:
            yield from _repeated(full, child)


def matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The modules that patterns name.

    Raises:
        ConfigError: a pattern names none, or modules that lie in each other.
    """
    names = [name for name, module in model.named_modules() if name and _holds(module)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"no module of {type(model).__name__} with parameters matches the unit {pattern!r}:"
                f" it has {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
            )
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    # `layers.*` means its children, although `*` also stands for what lies deeper
    return _outermost(found, patterns)


def _outermost(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        around = next((one for one in found if name.startswith(one + ".")), None)
        if around is None:
            found.append(name)
        elif name in patterns:
            raise ConfigError(f"unit {name} lies in unit {around}: name one of the two")
    return found


def parameters_of(model: nn.Module, units: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each unit holds; a parameter that two places share is among the rest, as "" has it."""
    homes: dict[int, set[str]] = {}
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        home = next((unit for unit in units if name.startswith(unit + ".")), "")
        homes.setdefault(id(parameter), set()).add(home)
        names.setdefault(id(parameter), name)
    found: dict[str, list[str]] = {unit: [] for unit in ("", *units)}
    for key, name in names.items():
        found[homes[key].pop() if len(homes[key]) == 1 else ""].append(name)
    return {unit: tuple(held) for unit, held in found.items() if held}


# a pipeline: which layers are a stage


def layer_names(model: nn.Module) -> list[list[str]]:
    """The parameters of each layer between which a pipeline may cut, each where it is first."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        [names.pop(id(p)) for p in layer.parameters() if id(p) in names]
        for layer in layers_of(model)
    ]


def cut_by(layers: Sequence[Sequence[str]], stages: Sequence[Sequence[str]]) -> list[range]:
    """Cut layers, given by the names of their parameters, as patterns say stage by stage.

    A layer without parameters stays with the one before it.

    Raises:
        ConfigError: a pattern matches nothing, or stages do not hold each layer once and in order.
    """
    everything = [name for layer in layers for name in layer]
    for pattern in (pattern for stage in stages for pattern in stage):
        if not any(_covers(pattern, name) for name in everything):
            raise ConfigError(f"no layer of the model matches {pattern!r} of the pipeline's stages")
    where: list[int] = []
    for layer in layers:
        found = {_stage_of(name, stages): name for name in layer}
        if len(found) > 1:
            raise ConfigError(f"{' and '.join(found.values())} are one layer: give it one stage")
        stage = next(iter(found), where[-1] if where else 0)
        if where and stage < where[-1]:
            raise ConfigError(f"{layer[0]} comes too early: stages follow the order of the calls")
        where.append(stage)
    lacking = next((number for number in range(len(stages)) if number not in where), None)
    if lacking is not None:
        raise ConfigError(f"stage {lacking} of the rules holds no layer of its own")
    ends = [len(where) - where[::-1].index(number) for number in range(len(stages))]
    return [range(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def _stage_of(name: str, stages: Sequence[Sequence[str]]) -> int:
    found = [n for n, stage in enumerate(stages) if any(_covers(one, name) for one in stage)]
    if len(found) != 1:
        many = f"stages {' and '.join(map(str, found))} both hold" if found else "no stage holds"
        raise ConfigError(f"{many} {name}: let the patterns of one stage match it")
    return found[0]


def _covers(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, pattern + ".*")


def stage_costs(
    model: nn.Module, stages: Sequence[Sequence[str]] | None, parts: int
) -> list[float] | None:
    """Costs for which the best cut into `parts` is the one that patterns ask for; None: no wish.

    Each stage costs the same in all, and every layer something: any other cut has a dearer stage.

    Raises:
        ConfigError: the patterns do not fit the model, or are for another number of stages.
    """
    if stages is None:
        return None
    if len(stages) != parts:
        raise ConfigError(f"the rules have {len(stages)} stages and the pipeline has {parts}")
    found = cut_by(layer_names(model), stages)
    whole = math.lcm(*(len(part) for part in found))
    return [float(whole // len(part)) for part in found for _ in part]


def make_plan(model: nn.Module, rules: Rules, parts: int) -> Plan:
    """Decide for a pipeline of `parts` stages (1: none) and ZeRO inside of each.

    Raises:
        ConfigError: the rules do not fit the model.
    """
    units = repeated(model) if rules.units is None else matching(model, rules.units)
    held = parameters_of(model, units)
    if parts == 1:
        return Plan(held)
    costs = stage_costs(model, rules.stages, parts) or count_costs(layers_of(model))
    layers = layer_names(model)
    stages = [tuple(n for i in part for n in layers[i]) for part in cut(costs, parts)]
    return Plan(held, tuple(stages))
