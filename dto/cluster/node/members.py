"""What the guard was told of the cluster: /etc/dto/guard.json, written by Ansible on the head."""

from __future__ import annotations

import json
import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dto.cluster.node.errors import NodeError
from dto.cluster.node.ledger import Budget

PATH = Path("/etc/dto/guard.json")


@dataclass(frozen=True)
class Member:
    """A machine that costs money while it is on; a `price` of None is not known."""

    name: str
    address: str
    instance_id: str | None = None
    group: str = ""
    partitions: tuple[str, ...] = ()
    price: float | None = None
    is_node: bool = True
    is_head: bool = False


@dataclass(frozen=True)
class Guarded:
    """The cluster as the guard sees it."""

    members: tuple[Member, ...]
    budget: Budget
    power_on: str | None
    power_off: str | None
    is_cloud: bool
    is_replaced: bool
    currency: str = "USD"

    @property
    def nodes(self) -> tuple[Member, ...]:
        """Those that take jobs."""
        return tuple(member for member in self.members if member.is_node)

    @property
    def mere_head(self) -> str:
        """The head's name, unless it takes jobs itself."""
        return next((m.name for m in self.members if m.is_head and not m.is_node), "")


def read_guarded(path: Path = PATH) -> Guarded:
    try:
        return parse_guarded(json.loads(path.read_text()))
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NodeError(f"{path} cannot be used ({error}): run cluster-setup.sh again") from None


def parse_guarded(raw: Mapping[str, Any]) -> Guarded:
    members = tuple(map(_parse_member, raw["members"]))
    budget = raw.get("budget") or {}
    power = raw.get("power") or {}
    return Guarded(
        members=members,
        budget=Budget(**{key: budget.get(key) for key in Budget.__dataclass_fields__}),
        power_on=power.get("on"),
        power_off=power.get("off"),
        is_cloud=raw["provider"] in ("aws", "nebius"),
        is_replaced=raw["provider"] == "aws",
        currency=str(raw.get("currency", "USD")),
    )


def _parse_member(raw: Mapping[str, Any]) -> Member:
    values = {key: raw[key] for key in Member.__dataclass_fields__ if key in raw}
    return Member(**{**values, "partitions": tuple(raw.get("partitions", ()))})


def power_argv(command: str, member: Member) -> list[str]:
    """Return a power command's words for one machine: no shell, and no value can add a word.

    Raises:
        NodeError: the command asks for what is not known of this machine.
    """
    values = {"name": member.name, "address": member.address, "group": member.group,
              "instance_id": member.instance_id or ""}  # fmt: skip
    try:
        words = shlex.split(command)
        asked = {field for word in words for _, field, _, _ in string.Formatter().parse(word)}
        missing = [field for field in asked if field and not values.get(field)]
        if missing:
            raise NodeError(f"the record does not say what {missing[0]} of {member.name} is")
        return [word.format(**values) for word in words]
    except ValueError as error:
        raise NodeError(f"the power command {command!r} cannot be used: {error}") from None
