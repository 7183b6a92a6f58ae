"""What a record's parts must be together, and how its problems are told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from dto.cluster import words
from dto.config.layers import nearest

if TYPE_CHECKING:
    from dto.cluster.inventory import DtoCluster

_PRIVATE = re.compile(r"-----BEGIN|PuTTY-User-Key-File|b3BlbnNzaC1rZXktdjE")
_TEMPLATE = re.compile(r"\{\{|\{%|\{#")
INHERITED = ("gpus", "gpu_type", "gpu_files", "features")
"""What a node has from its group unless it says otherwise."""
_OF_THE_HEAD = ("public_address", "local", "instance_id", "instance_type", "hourly_usd")
"""What the head, as a node, has from the entry of the head."""


def secrets(raw: Any, path: str = "") -> list[str]:
    """Return where a private key was pasted in; the key itself is never repeated."""
    if isinstance(raw, str):
        if not _PRIVATE.search(raw):
            return []
        return [f"{path or 'it'} holds a private key; write the path of its file, under ssh.key"]
    if isinstance(raw, dict):
        inside = f"a key of {path or 'it'}"
        found = [problem for key in raw for problem in secrets(str(key), inside)]
        return found + [p for key, value in raw.items() for p in secrets(value, _join(path, key))]
    if isinstance(raw, list | tuple):
        return [p for i, value in enumerate(raw) for p in secrets(value, f"{path}[{i}]")]
    return []


def templates(raw: Any, path: str = "") -> list[str]:
    """Return where Ansible would take a text for a template of its own."""
    if isinstance(raw, str):
        mark = _TEMPLATE.search(raw)
        return [f"{path}: {mark[0]!r} would be a template to Ansible"] if mark else []
    if isinstance(raw, dict):
        return [
            problem
            for key, value in raw.items()
            if _join(path, key) != "power"  # the head runs these; Ansible never reads them
            for problem in (*templates(str(key), path), *templates(value, _join(path, key)))
        ]
    if isinstance(raw, list | tuple):
        return [p for i, value in enumerate(raw) for p in templates(value, f"{path}[{i}]")]
    return []


def _join(path: str, key: Any) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


def filled(raw: Any) -> Any:
    """Give each node what it does not say: its group, the group's gpus, the head's place."""
    if not isinstance(raw, dict) or not isinstance(raw.get("nodes"), list | tuple):
        return raw
    groups = raw.get("node_groups")
    groups = groups if isinstance(groups, dict) else {}
    nodes = [
        _filled(node, groups, raw.get("head")) if isinstance(node, dict) else node
        for node in raw["nodes"]
    ]
    return {**raw, "nodes": nodes}


def _filled(node: dict[str, Any], groups: dict[Any, Any], head: Any) -> dict[str, Any]:
    said = {key: value for key, value in node.items() if value is not None}
    if isinstance(head, dict) and _place(head) == _place(said):
        said = {**{key: head[key] for key in _OF_THE_HEAD if head.get(key) is not None}, **said}
    if not said.get("group"):
        said.pop("group", None)
        has_gpus = str(said.get("gpus", "0")).strip() not in ("", "0") or said.get("gpu_files")
        implied = next(iter(groups)) if len(groups) == 1 else "gpu" if has_gpus else "cpu"
        said |= {"group": implied} if implied in groups or not groups else {}
    group = groups.get(said["group"]) if isinstance(said.get("group"), str) else None
    if not isinstance(group, dict):
        return said
    given = {key: group[key] for key in INHERITED if group.get(key) is not None}
    if "gpu_files" in said:
        given.pop("gpus", None)
    elif "gpus" in said and str(said["gpus"]) != _number(group):
        given.pop("gpu_files", None)
    return {**given, **said}


def _place(host: dict[str, Any]) -> tuple[Any, Any]:
    return host.get("name"), host.get("address")


def _number(group: dict[str, Any]) -> str:
    """How many GPUs a group says it has, in whichever of the two ways."""
    counted = words.counted_files(group)
    return str(counted.get("gpus") or 0)


def between_hosts(record: DtoCluster) -> list[str]:
    """Return every way in which the parts do not fit each other."""
    return [
        *_twice("nodes", "name", _names(record)),
        *_twice("nodes", "address", _addresses(record)),
        *_unreachable(record),
        *_groups(record),
        *_twice("users", "name", ((f"users[{i}]", u.name) for i, u in enumerate(record.users))),
        *_twice("users", "uid", ((f"users[{i}]", str(u.uid)) for i, u in enumerate(record.users))),
        *_room(record),
    ]


def _names(record: DtoCluster) -> Iterator[tuple[str, str]]:
    yield "head", record.head.name
    for i, node in enumerate(record.nodes):
        if not _is_head(record, node.name, node.address):
            yield f"nodes[{i}]", node.name


def _addresses(record: DtoCluster) -> Iterator[tuple[str, str]]:
    hosts = [("head", record.head)]
    hosts += [
        (f"nodes[{i}]", node)
        for i, node in enumerate(record.nodes)
        if not _is_head(record, node.name, node.address)
    ]
    for path, host in hosts:
        yield path, host.address
        if host.public_address and host.public_address != host.address:
            yield path, host.public_address


def _is_head(record: DtoCluster, name: str, address: str) -> bool:
    return (name, address) == (record.head.name, record.head.address)


def _twice(kind: str, what: str, values: Iterable[tuple[str, str]]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for path, value in values:
        same = words.same_address(value)
        if same in seen:
            yield f"{path}.{what}: {value!r} is given twice (also {seen[same]})"
        seen.setdefault(same, path)


def _unreachable(record: DtoCluster) -> Iterator[str]:
    others = [node for node in record.nodes if node.name != record.head.name]
    if others and words.is_loopback(record.head.address):
        loop = record.head.address
        yield f"head.address: the nodes cannot reach {loop!r}; write its address in the network"
    for i, node in enumerate(record.nodes):
        if node in others and words.is_loopback(node.address):
            yield f"nodes[{i}].address: {node.address!r} is every machine's own address"


def _groups(record: DtoCluster) -> Iterator[str]:
    known = record.groups
    for i, node in enumerate(record.nodes):
        if not node.group:
            yield f"nodes[{i}].group is missing; take one of: {', '.join(known)}"
        elif node.group not in known:
            yield f"nodes[{i}].group: unknown group {node.group!r}{nearest(node.group, known)}"
    partitions = [(f"node_groups.{name}", g.partition or name) for name, g in known.items()]
    for path, name in partitions:
        if name.lower() in {"all", "default"}:
            yield f"{path}: {name!r} has a meaning of its own; give it another partition"
    yield from _twice("node_groups", "partition", partitions)
    defaults = [name for name, group in known.items() if group.default]
    if len(defaults) > 1:
        yield f"node_groups: {' and '.join(defaults)} are both the default; SLURM has one"


def _room(record: DtoCluster) -> Iterator[str]:
    given = len(record.nodes)
    if given > record.slurm.max_nodes:
        yield f"slurm.max_nodes is {record.slurm.max_nodes}, but there are {given} nodes"
    if sum(host.local for host in record.members) > 1:
        yield "local: only one host can be the machine that this runs on"


def plain_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return pydantic's complaints as lines that begin with the path of the key.

    Unknown keys come first: a misspelt key is often why another one is missing.
    """
    unknown: list[str] = []
    others: list[str] = []
    for problem in error.errors(include_url=False):
        path = ""
        for part in problem["loc"]:
            path = path if part == "[key]" else _join(path, part)
        text = str(problem["msg"]).removeprefix("Value error, ")
        if problem["type"] == "value_error":
            others += [f"{path}: {line}" if path else line for line in text.split("\n")]
        elif problem["type"] == "extra_forbidden":
            unknown.append(_misspelt(path, problem["loc"], model))
        else:
            others.append(_retold(path, problem["type"], text, problem.get("input")))
    return unknown + others


def _misspelt(path: str, loc: tuple[int | str, ...], model: type[BaseModel]) -> str:
    for part in loc[:-1]:
        found = model.model_fields.get(part) if isinstance(part, str) else None
        inner = _model_in(found.annotation) if found else None
        model = inner or model
    place = path[: -len(str(loc[-1]))].rstrip(".")
    near = nearest(str(loc[-1]), model.model_fields)
    return f"{place + ': ' if place else ''}unknown key {str(loc[-1])!r}{near}"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)


def _retold(path: str, kind: str, text: str, value: Any) -> str:
    if kind == "missing":
        return f"{path} is missing"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{path or 'it'} must hold `key: value` lines"
    if kind == "tuple_type":
        return f"{path} must be a list"
    text = text.replace("Input should be", "must be")
    shown = f", not {value!r}" if isinstance(value, str | int | float) else ""
    return f"{path}: {text}{shown}"
