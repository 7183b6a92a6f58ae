"""What a tensor-parallel plan says: which modules are cut, and how."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from dto.errors import ConfigError
from dto.runtime.tensor.cuts import Cut

_GRAMMAR = re.compile(r"(column)(?::([1-9]\d*)(?:x([1-9]\d*))?)?|(row|sequence|sum)")
_WORDS = '"column", "column:3", "column:3x16", "row", "sequence" or "sum"'


@dataclass(frozen=True)
class Role:
    """`kind` is column, row, sequence or sum.

    A column layer consists of `blocks` equal blocks; `unit` outputs, such as those of an attention
    head, stay together.
    """

    kind: str
    blocks: int = 1
    unit: int = 1

    def cuts(self) -> dict[str, Cut]:
        """How the parameters of an nn.Linear in this role are cut; the others stay whole."""
        if self.kind == "column":
            return {"weight": Cut(0, self.blocks), "bias": Cut(0, self.blocks)}
        return {"weight": Cut(1)} if self.kind == "row" else {}


def read_role(text: str) -> Role:
    """One value of a plan.

    Raises:
        ConfigError: it is none of those there are.
    """
    found = _GRAMMAR.fullmatch(text)
    if found is None:
        raise ConfigError(f"a tensor plan cannot say {text!r}: use {_WORDS}")
    column, blocks, unit, other = found.groups()
    return Role(column or other, int(blocks or 1), int(unit or 1))


def read_plan(model: nn.Module, plan: Mapping[str, str] | None) -> dict[str, Role]:
    """The role of each module that has one, by name; `plan` is the model's own if not given.

    Raises:
        ConfigError: there is no plan, or it names what the model has not.
    """
    if plan is None:
        own = getattr(model, "tensor_plan", None)
        if own is None:
            raise ConfigError(
                f"tensor parallelism does not know how to cut {type(model).__name__}: give it a"
                ' plan such as {"*.up": "column", "*.down": "row"}, or the model a tensor_plan()'
            )
        plan = own()
    names = [name for name, _ in model.named_modules()]
    roles: dict[str, Role] = {}
    for pattern, text in plan.items():
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            kind = type(model).__name__
            raise ConfigError(f"no module of {kind} matches {pattern!r} of the tensor plan")
        twice = next((name for name in found if name in roles), None)
        if twice is not None:
            raise ConfigError(f"two patterns of the plan match {twice}: give each module one role")
        roles.update(dict.fromkeys(found, read_role(text)))
    if not any(role.cuts() for role in roles.values()):
        raise ConfigError("the plan cuts nothing: give some nn.Linear the role column or row")
    return roles


def following(
    roles: dict[str, Role], sequence_parallel: bool
) -> dict[str, Role]:
    """The roles to follow; those of sequence parallelism only where it was asked for."""
    if not sequence_parallel:
        return {name: role for name, role in roles.items() if role.kind != "sequence"}
    if not any(role.kind == "sequence" for role in roles.values()):
        raise ConfigError(
            'sequence_parallel needs a module with the role "sequence" in the plan: the one that'
            " holds all layers, say"
        )
    return roles


def is_inside(name: str, regions: Sequence[str]) -> bool:
    """Whether a module or parameter lies in one of these modules; "" is the whole model."""
    return any(name == region or name.startswith(f"{region}.") or not region for region in regions)


def check_roles(model: nn.Module, roles: Mapping[str, Role], size: int) -> None:
    """Raise ConfigError where a role does not fit its module, or `size` ranks cannot share it."""
    uses = Counter(p for module in model.modules() for p in module._parameters.values())
    for name, role in roles.items():
        if not role.cuts():
            continue
        module = model.get_submodule(name)
        # subclasses may read their weight where no forward() of ours is called
        if type(module) is not nn.Linear or "weight" not in module._parameters:
            kind = type(module).__name__
            raise ConfigError(f"only a plain nn.Linear can be cut, and {name} is of {kind}")
        if any(uses[p] > 1 for p in module.parameters()):
            raise ConfigError(
                f"{name} shares its weight with another module, so it cannot be cut: leave it out"
                " of the plan"
            )
        _check_sizes(name, module, role, size)


def _check_sizes(name: str, layer: nn.Linear, role: Role, size: int) -> None:
    count = layer.out_features if role.kind == "column" else layer.in_features
    if count % (role.blocks * role.unit * size):
        what = "outputs" if role.kind == "column" else "inputs"
        blocks = f" in {role.blocks} blocks" if role.blocks > 1 else ""
        units = f" of {role.unit} that stay together" if role.unit > 1 else ""
        raise ConfigError(
            f"{name} has {count} {what}{blocks}{units}, which {size} ranks cannot share evenly:"
            " use other sizes, or fewer tensor-parallel ranks"
        )
