"""Lays what was asked for over what a cluster already is: nothing is lost, nothing is doubled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dto.cluster import words
from dto.cluster.inventory import IMPLIED_GROUPS, DtoCluster, parse_record
from dto.cluster.inventory_hosts import Node
from dto.cluster.sources import next_name
from dto.errors import ConfigError

_OF_AN_ADDRESS = ("public_address", "instance_id")
"""What a host loses with its address, unless it is said anew."""


@dataclass(frozen=True)
class Draft:
    """The record that a setup aims at, and what changes that nobody spelt out."""

    record: DtoCluster
    notes: tuple[str, ...] = ()
    gone: tuple[Node, ...] = ()
    """Nodes that the cloud has replaced; they are no longer in the record."""


def known_names(saved: DtoCluster | None) -> dict[str, str]:
    """Return address -> name of an applied record: what `from_flags` takes as `names`."""
    members = saved.members if saved else ()
    return {address: host.name for host in members for address in host.addresses}


def draft_from_record(saved: DtoCluster | None, wanted: DtoCluster) -> Draft:
    """Return what a cluster becomes by a file or Terraform: it says everything about settings.

    Nodes that it does not name stay (only `dto cluster remove` takes one away), except those of a
    cloud, which replaces its machines: with an instance_id, they are gone.
    """
    if saved is None:
        return Draft(wanted)
    named = {node.name for node in wanted.nodes}
    gone = [node for node in saved.nodes if node.name not in named and node.instance_id]
    for node in gone:
        saved = saved.without_node(node.name)
    notes = [f"node {node.name} ({node.instance_id}) is no longer there" for node in gone]
    said = wanted.to_json()
    return _merged(saved, said, said, notes, tuple(gone))


def draft_from_flags(saved: DtoCluster | None, said: Mapping[str, Any]) -> Draft:
    """Return what a cluster becomes by `flag_values`: what flags do not say stays as it was."""
    if saved is None:
        return Draft(parse_record(dict(said), "command line"))
    return _merged(saved, _laid_over(saved.to_json(), said), said, [])


def draft_join(saved: DtoCluster, address: str, *, name: str | None = None, **facts: Any) -> Draft:
    """Return a cluster with one more node; `facts` are its keys (gpus, group, local ...).

    A node that is there at this address already stays the same node.
    """
    known = {words.same_address(place): found for place, found in known_names(saved).items()}
    found = known.get(words.same_address(address)) or name
    found = found or next_name(saved.name, known.values())
    given = {key: value for key, value in facts.items() if value is not None}
    return draft_from_flags(saved, {"nodes": [{"name": found, "address": address, **given}]})


def _merged(
    saved: DtoCluster,
    base: Mapping[str, Any],
    said: Mapping[str, Any],
    notes: list[str],
    gone: tuple[Node, ...] = (),
) -> Draft:
    """Return the settings of `base` with the hosts and host keys of both, `said` over `saved`."""
    _check_same(saved, said)
    before, left = saved.to_json(), _Left()
    replaces = base is said
    nodes = {node["name"].lower(): node for node in before.get("nodes", ())}
    for node in said.get("nodes") or ():
        key = str(node["name"]).lower()
        nodes[key] = _host(nodes[key], node, replaces, left) if key in nodes else node
    head = _host(before["head"], said.get("head") or before["head"], replaces, left)
    spoken = said.get("host_keys") or {}
    keys = {**before.get("host_keys", {}), **spoken}
    kept = {a: lines for a, lines in keys.items() if a in spoken or a not in left.places}
    raw = {**base, "head": head, "nodes": list(nodes.values()), "host_keys": kept}
    record = parse_record(raw, f"cluster {saved.name}")
    return Draft(record, (*notes, *dict.fromkeys(left.notes)), gone)


@dataclass
class _Left:
    """Addresses that hosts no longer have, and how that is told."""

    places: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def _host(
    old: Mapping[str, Any], new: Mapping[str, Any], replaces: bool, left: _Left
) -> dict[str, Any]:
    kept = {} if replaces else dict(old)
    if new["address"] != old["address"]:
        left.places |= {old[key] for key in ("address", "public_address") if key in old}
        left.notes.append(f"{old['name']}: address {old['address']} is now {new['address']}")
        for key in _OF_AN_ADDRESS:
            kept.pop(key, None)
    if new.get("gpus", old.get("gpus", 0)) != old.get("gpus", 0):
        kept.pop("gpu_files", None)
        if kept.get("group") in IMPLIED_GROUPS and not (new["gpus"] and old.get("gpus")):
            kept.pop("group")
    return {**kept, **new}


def _check_same(saved: DtoCluster, said: Mapping[str, Any]) -> None:
    name = said.get("name", saved.name)
    if name != saved.name:
        raise ConfigError(f"this is cluster {saved.name}, not {name!r}")
    head = said.get("head") or {"name": saved.head.name}
    if head.get("name") != saved.head.name:
        raise ConfigError(
            f"the head of cluster {name} is {saved.head.name} ({saved.head.address}), not "
            f"{head.get('name')}; a cluster keeps its head: choose another --cluster-name"
        )
    known = known_names(saved)
    named = {str(node.get("name")).lower() for node in said.get("nodes") or ()}
    for node in said.get("nodes") or ():
        old = known.get(str(node.get("address")), node.get("name"))
        if old != node.get("name") and str(old).lower() not in named:
            raise ConfigError(
                f"{node.get('address')} is {old} in cluster {name}, not {node.get('name')}; to "
                f"rename it: dto cluster remove {old}, then run this again"
            )


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key and users by name; anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if key == "users" and isinstance(old, list):
            people = {user["name"]: user for user in [*old, *value]}
            merged[key] = list(people.values())
        elif key == "shared" and isinstance(old, dict) and "kind" in value:
            same = value["kind"] == old.get("kind", "nfs")
            merged[key] = {**(old if same else {}), **value}
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _laid_over(old, value)
        else:
            merged[key] = value
    return merged
