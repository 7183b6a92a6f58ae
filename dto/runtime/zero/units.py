"""Which parameters are gathered together: a model cut into units, modules that are used at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from dto.errors import ConfigError

UNIT_BYTES = 8 << 20
"""Big enough for bandwidth, small enough that two at a time are little beside a model."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OPEN = (*_CONTAINERS, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)


@dataclass(frozen=True)
class UnitPlan:
    """A module and the names of the parameters that are gathered before its forward.

    The first of a model is its root: whatever no other unit holds, and what several share.
    """

    name: str
    module: nn.Module
    parameters: tuple[str, ...]


def plan_units(model: nn.Module, rule: int | Sequence[str] = UNIT_BYTES) -> list[UnitPlan]:
    """Cut a model into units, the root first, the others in the order of definition.

    Args:
        model: any module.
        rule: the bytes up to which a module stays whole, or patterns (`*`, `?`) of module names.
            By bytes, a block that its neighbours repeat stays whole whatever its size.

    Raises:
        ConfigError: a pattern that no module with parameters and a forward of its own matches.
    """
    found = _by_size(model, rule) if isinstance(rule, int) else _by_name(model, rule)
    chosen = {id(module): name for name, module in found}
    homes = _homes(model, chosen)
    members: dict[str, list[str]] = {"": [], **{name: [] for name, _ in found}}
    for name, parameter in model.named_parameters():
        owners = homes[id(parameter)]
        members[owners.pop() if len(owners) == 1 else ""].append(name)
    root = UnitPlan("", model, tuple(members[""]))
    others = [UnitPlan(name, module, tuple(members[name])) for name, module in found]
    return [root, *(unit for unit in others if unit.parameters)]


def _homes(model: nn.Module, chosen: dict[int, str]) -> dict[int, set[str]]:
    """For each parameter the units that it is found in; "" is the root."""
    homes: dict[int, set[str]] = {}

    def visit(module: nn.Module, unit: str) -> None:
        unit = chosen.get(id(module), unit)
        for parameter in module.parameters(recurse=False):
            homes.setdefault(id(parameter), set()).add(unit)
        for child in module.children():
            visit(child, unit)

    visit(model, "")
    return homes


def _by_size(model: nn.Module, limit: int) -> list[tuple[str, nn.Module]]:
    if _bytes(model) <= limit:
        return []
    seen: set[int] = set()

    def below(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for short, child in module.named_children():
            name = f"{prefix}{short}"
            if id(child) in seen or not _bytes(child):
                continue
            seen.add(id(child))
            if _has_forward(child) and (_bytes(child) <= limit or _stays_whole(child, module)):
                yield name, child
            else:
                yield from below(child, f"{name}.")

    return list(below(model, ""))


def _by_name(model: nn.Module, patterns: Sequence[str]) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    unused = set(patterns)
    for name, module in model.named_modules():
        matching = {pattern for pattern in patterns if name and fnmatchcase(name, pattern)}
        if not matching or not _bytes(module) or not _has_forward(module):
            continue
        unused -= matching
        if not any(name.startswith(f"{outer}.") for outer, _ in found):
            found.append((name, module))
    if unused:
        raise ConfigError(
            f"no module that has parameters and is called is named {min(unused)!r}: give patterns"
            " of names such as 'layers.*'"
        )
    return found


def _stays_whole(module: nn.Module, parent: nn.Module) -> bool:
    """A block among its like; or one of torch's own, which may read its children's parameters."""
    if type(module).__module__.startswith("torch.nn."):
        return not isinstance(module, _OPEN)
    return sum(type(other) is type(module) for other in parent.children()) > 1


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _bytes(module: nn.Module) -> int:
    return sum(math.prod(p.shape) * p.element_size() for p in module.parameters())
