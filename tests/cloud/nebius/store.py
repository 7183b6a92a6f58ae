"""The stub's make-believe cloud: a JSON file that holds what exists."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cloud.nebius.schema import Fields, completed

VARIABLE = "NEBIUS_STUB_STORE"
NO_ROOM_FOR = "NEBIUS_STUB_NO_ROOM_FOR"
"""The name of a machine that the cloud has no room for, as where a quota is used up."""
REGION = "eu-north1"
TENANT = "tenant-e00test"
_MADE = "2026-01-01T00:00:00Z"

Objects = dict[str, dict[str, Any]]


class Refused(Exception):
    """What the cloud would not do, in words."""


@contextmanager
def opened() -> Iterator[dict[str, Any]]:
    """The cloud's content, for one process at a time; written back where nothing was raised."""
    path = Path(os.environ[VARIABLE])
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        content = json.loads(text) if text else {"made": 0, "objects": {}}
        yield content
        file.truncate(0)
        json.dump(content, file, indent=1)


def exists(path: Path) -> Objects:
    """What exists in a store, by id: {"kind": ..., "values": ...}."""
    text = path.read_text() if path.exists() else ""
    return json.loads(text)["objects"] if text else {}


def create(kind: str, fields: Fields, values: dict[str, Any]) -> dict[str, Any]:
    """Make a resource of the values that are known, and return it whole."""
    if kind == "nebius_compute_v1_instance" and values["name"] == os.environ.get(NO_ROOM_FOR):
        raise Refused(f"no room for {values['name']}: the quota is used up")
    with opened() as content:
        objects: Objects = content["objects"]
        _all_there(objects, values)
        content["made"] += 1
        number = content["made"]
        _, service, _, *words = kind.split("_")
        identity = f"{service}{''.join(words)}-e00{number:06d}"
        made = {**values, "id": identity, "created_at": _MADE}
        made |= {"updated_at": _MADE, "resource_version": 1, "metadata": {}}
        made["status"] = _status(kind, made, number, objects)
        made |= _defaults(kind, made)
        made = {name: made.get(name) for name in fields}
        full: dict[str, Any] = completed(fields, made)
        _disks_are_free(objects, full)
        objects[full["id"]] = {"kind": kind, "values": full}
        return full


def update(values: dict[str, Any]) -> dict[str, Any]:
    with opened() as content:
        _all_there(content["objects"], values)
        _disks_are_free(content["objects"], values)
        content["objects"][values["id"]]["values"] = values
        return values


def read(identity: str) -> dict[str, Any] | None:
    with opened() as content:
        found = content["objects"].get(identity)
        return found and found["values"]


def delete(identity: str) -> None:
    """Take a resource away; one that another still names stays."""
    with opened() as content:
        objects: Objects = content["objects"]
        for other, entry in objects.items():
            own = {name: v for name, v in entry["values"].items() if name != "status"}
            if other != identity and identity in _texts(own):
                raise Refused(f"{identity} is in use by {other}")
        objects.pop(identity, None)


def look_up(kind: str, fields: Fields, config: dict[str, Any]) -> dict[str, Any]:
    """Find what a data source asks for, by its id or by name and parent."""
    asked = {name: config.get(name) for name in ("id", "name", "parent_id") if config.get(name)}
    with opened() as content:
        for entry in content["objects"].values():
            values = entry["values"]
            if entry["kind"] == kind and asked.items() <= values.items():
                full: dict[str, Any] = completed(fields, values)
                return full
    if kind == "nebius_iam_v1_project" and str(config.get("id", "")).startswith("project-"):
        made = {"id": config["id"], "parent_id": TENANT, "region": REGION, "name": "tests"}
        full = completed(fields, made)
        return full
    raise Refused(f"no {kind} with {asked}")


def _all_there(objects: Objects, values: dict[str, Any]) -> None:
    """Refuse what names a thing that does not exist, by the shape of our ids."""
    own = {name: value for name, value in values.items() if name not in ("id", "status")}
    for text in _texts(own):
        kind, _, number = text.rpartition("-e00")
        is_ours = kind.startswith(("compute", "vpc", "iam", "storage")) and number.isdigit()
        if is_ours and text not in objects:
            raise Refused(f"{text} does not exist")


def _disks_are_free(objects: Objects, values: dict[str, Any]) -> None:
    """A disk that one machine writes on is no other's."""
    disk = _boot_disk(values)
    for other, entry in objects.items():
        if disk and other != values["id"] and _boot_disk(entry["values"]) == disk:
            raise Refused(f"disk {disk} is attached to {other}")


def _boot_disk(values: dict[str, Any]) -> str | None:
    return ((values.get("boot_disk") or {}).get("existing_disk") or {}).get("id")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _defaults(kind: str, made: dict[str, Any]) -> dict[str, Any]:
    """What the cloud says itself where the configuration did not."""
    known: dict[str, Any] = {}
    if kind == "nebius_vpc_v1_security_rule":
        known = {"priority": 500, "type": "STATEFUL"}
    if kind == "nebius_storage_v1_bucket":
        known = {"versioning_policy": "DISABLED"}
    return {name: value for name, value in known.items() if made.get(name) is None}


def _status(kind: str, made: dict[str, Any], number: int, objects: Objects) -> dict[str, Any]:
    if kind == "nebius_compute_v1_instance":
        return _instance(made, number, objects)
    if kind == "nebius_vpc_v1_allocation":
        return {"state": "ALLOCATED", "details": {"allocated_cidr": f"203.0.113.{number % 250}/32"}}
    if kind == "nebius_vpc_v1_subnet":
        return {"state": "READY", "ipv4_private_cidrs": [str(_network(made))]}
    return {"state": "READY"}


def _network(subnet: dict[str, Any]) -> ipaddress.IPv4Network:
    pools = (subnet.get("ipv4_private_pools") or {}).get("pools") or []
    cidrs = [cidr["cidr"] for pool in pools for cidr in pool["cidrs"]]
    return ipaddress.IPv4Network(cidrs[0] if cidrs else "10.128.0.0/20")


def _instance(made: dict[str, Any], number: int, objects: Objects) -> dict[str, Any]:
    """An instance that runs, with an address in its subnet and a public one if it asks for it."""
    cards = []
    for index, card in enumerate(made["network_interfaces"]):
        inside = _network(objects[card["subnet_id"]]["values"])[number + 10 + index]
        public = card.get("public_ip_address")
        if public is not None:
            taken = public.get("allocation_id")
            told = taken and objects[taken]["values"]["status"]["details"]["allocated_cidr"]
            address = told or f"198.51.100.{number % 250}/32"
            public = {"address": address, "allocation_id": taken, "static": bool(taken)}
        ours = {"address": f"{inside}/32"}  # with its mask, as the true API tells it
        cards.append({"index": index, "name": card["name"], "ip_address": ours})
        cards[-1] |= {"public_ip_address": public, "fqdn": f"{made['id']}.internal"}
    status = {"state": "RUNNING", "reconciling": False, "network_interfaces": cards}
    if made.get("gpu_cluster"):
        status["infiniband_topology_path"] = {"path": ["spine-1", f"leaf-{number % 2}"]}
    return status
