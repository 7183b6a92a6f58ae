"""What Terraform's JSON says, of a plan and of a state alike: resources, changes, the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dto.cluster.sources import OUTPUT

_VERBS = {
    ("create",): "create",
    ("update",): "change",
    ("delete",): "destroy",
    ("delete", "create"): "replace",
    ("create", "delete"): "replace",
}


@dataclass(frozen=True)
class Resource:
    """A resource as it is, or as it is going to be; what is not known yet is not in `values`."""

    address: str
    type: str
    values: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.values.get("id") or "")


@dataclass(frozen=True)
class Change:
    """What a plan does to one resource: create, change, destroy or replace."""

    address: str
    type: str
    verb: str
    keys: tuple[str, ...] = ()
    """What differs, where it is changed in place."""


@dataclass(frozen=True)
class Planned:
    """A plan, as far as we read it."""

    variables: Mapping[str, Any]
    answers: Mapping[str, Any]
    """Variables that are not at their defaults, without those that are secret."""
    required: frozenset[str]
    """Variables that have no default."""
    cluster: Mapping[str, Any]
    """The output `dto_cluster`; what only an apply can tell is missing from it."""
    resources: tuple[Resource, ...]
    changes: tuple[Change, ...]
    drift: tuple[Change, ...]
    """What is not as the last apply left it, though perhaps only read anew."""
    changes_outputs: bool = False

    @property
    def name(self) -> str:
        return str(self.cluster.get("name") or self.variables.get("cluster_name") or "")

    @property
    def region(self) -> str:
        return str(self.cluster.get("region") or self.variables.get("region") or "")

    @property
    def provider(self) -> str:
        return str(self.cluster.get("provider") or provider_of(self.resources))

    @property
    def is_empty(self) -> bool:
        """Whether an apply would change nothing, not even what is written down of it."""
        return not self.changes and not self.changes_outputs

    def counted(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for change in self.changes:
            counts[change.verb] = counts.get(change.verb, 0) + 1
        return counts


def read_plan(raw: Mapping[str, Any]) -> Planned:
    """Read `terraform show -json PLAN`."""
    variables = {name: found.get("value") for name, found in _dict(raw, "variables").items()}
    declared = _dict(_dict(_dict(raw, "configuration"), "root_module"), "variables")
    outputs = _dict(raw, "output_changes")
    output = _dict(outputs, OUTPUT).get("after")
    return Planned(
        variables=variables,
        answers={
            name: value
            for name, value in variables.items()
            if value is not None and not _is_default(value, declared.get(name) or {})
        },
        required=frozenset(name for name, found in declared.items() if "default" not in found),
        cluster=output if isinstance(output, dict) else {},
        resources=tuple(resources_of(_dict(raw, "planned_values"))),
        changes=tuple(_changes(raw.get("resource_changes"))),
        drift=tuple(_changes(raw.get("resource_drift"))),
        changes_outputs=any(one.get("actions") != ["no-op"] for one in outputs.values()),
    )


def _is_default(value: Any, declared: Mapping[str, Any]) -> bool:
    is_kept_out = declared.get("sensitive") or declared.get("ephemeral")
    return bool(is_kept_out) or ("default" in declared and declared["default"] == value)


def read_state(raw: Mapping[str, Any]) -> tuple[list[Resource], dict[str, Any]]:
    """Read `terraform show -json`: the managed resources, and the output `dto_cluster`."""
    values = _dict(raw, "values")
    output = _dict(_dict(values, "outputs"), OUTPUT).get("value")
    return list(resources_of(values)), output if isinstance(output, dict) else {}


def resources_of(values: Mapping[str, Any]) -> Iterator[Resource]:
    """Walk through a module and the modules in it."""
    yield from _of_module(_dict(values, "root_module"))


def _of_module(module: Mapping[str, Any]) -> Iterator[Resource]:
    for found in module.get("resources") or ():
        if found.get("mode") == "managed":
            yield Resource(found["address"], found["type"], found.get("values") or {})
    for child in module.get("child_modules") or ():
        yield from _of_module(child)


def provider_of(resources: tuple[Resource, ...] | list[Resource]) -> str:
    for resource in resources:
        if resource.type.startswith(("aws_", "nebius_")):
            return resource.type.partition("_")[0]
    return ""


def _changes(raw: Any) -> Iterator[Change]:
    for found in raw or ():
        change = found.get("change") or {}
        verb = _VERBS.get(tuple(change.get("actions") or ()))
        if found.get("mode") == "managed" and verb:
            keys = _differing(change) if verb == "change" else ()
            yield Change(found["address"], found["type"], verb, keys)


def _differing(change: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = change.get("before") or {}, change.get("after") or {}
    unknown = change.get("after_unknown") or {}
    names = sorted({*before, *after, *unknown})
    return tuple(
        name for name in names if unknown.get(name) is True or before.get(name) != after.get(name)
    )


def _dict(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, dict) else {}
