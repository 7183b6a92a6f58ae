"""Nebius: machines leave their host keys and addresses in a folder that only root can read."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

from dto.cluster import words
from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.keys import host_key
from dto.remote.host import Host

FOLDER = ".dto/host-keys"
NODES = ".dto/nodes"
WAIT_SECONDS = 180.0
"""A machine publishes its keys once cloud-init has mounted the filesystem."""
_EVERY_SECONDS = 3.0
_SILENT_MINUTES = "10"
"""A machine that is on says so twice a minute; one that Terraform took away falls silent."""
_READ = r"""
cd "$1" 2>/dev/null || exit 0
for file in *; do
  [ -f "$file" ] || continue
  [ -z "${2-}" ] || [ -n "$(find "$file" -mmin "-$2")" ] || continue
  while read -r line; do printf '%s %s\n' "$file" "$line"; done <"$file"
done
"""


@dataclass(frozen=True)
class Machine:
    """A node as it describes itself; `instance_id` is None where Nebius did not tell it."""

    name: str
    address: str
    instance_type: str
    spot: bool
    instance_id: str | None = None


def machines(head: Host, record: DtoCluster) -> list[Machine]:
    """Return the nodes that are on, as the head finds them on the shared filesystem.

    What Terraform would not name so, or does not read as one machine, is passed over.
    """
    nodes = re.compile(rf"{re.escape(record.name)}-[0-9]{{3,}}")
    found: dict[str, list[Machine]] = {}
    for name, text in _lines(head, record, NODES, _SILENT_MINUTES):
        with contextlib.suppress(ValueError):
            if nodes.fullmatch(name):
                found.setdefault(name, []).append(_machine(words.host_name(name), text))
    return [one for name in sorted(found) if len(found[name]) == 1 for one in found[name]]


def _machine(name: str, text: str) -> Machine:
    """Read what dto-join wrote: ADDRESS TYPE spot|on-demand ID, where the id may be `-`."""
    address, kind, capacity, identity = text.split(" ")
    if capacity not in ("spot", "on-demand"):
        raise ValueError(f"{capacity!r} is neither spot nor on-demand")
    if ipaddress.ip_address(address).is_loopback:
        raise ValueError(f"{address} would be the head itself")
    return Machine(
        name,
        words.address(address),
        words.instance_type(kind),
        capacity == "spot",
        None if identity == "-" else words.plain_word(identity),
    )


def with_machine(record: DtoCluster, machine: Machine, keys: Sequence[str]) -> DtoCluster:
    """Return the record with a machine as a node; what it does not say of itself stays.

    Raises:
        ConfigError: the machine does not fit into this cluster, such as by its address.
    """
    raw, said = record.to_json(), asdict(machine)
    facts = {key: value for key, value in said.items() if value is not None}
    before = {node["name"]: node for node in raw.get("nodes", ())}
    groups = list(record.groups)
    group = {"group": groups[0]} if len(groups) == 1 else {}
    before[machine.name] = {**group, **before.get(machine.name, {}), **facts}
    trusted = {**raw.get("host_keys", {}), machine.address: list(keys)}
    changed = {**raw, "nodes": list(before.values()), "host_keys": trusted}
    return parse_record(changed, machine.name)


def published_keys(head: Host, record: DtoCluster) -> dict[str, tuple[str, ...]]:
    """Return name -> host keys, as the head finds them on the shared filesystem."""
    found: dict[str, list[str]] = {}
    for name, text in _lines(head, record, FOLDER):
        with contextlib.suppress(ValueError):  # an odd line is no key, and so vouches for nothing
            found.setdefault(name, []).append(host_key(text))
    return {name: tuple(keys) for name, keys in found.items()}


def _lines(head: Host, record: DtoCluster, folder: str, minutes: str = "") -> list[tuple[str, str]]:
    """Return (file, line) of the files in a folder that were touched in the last minutes."""
    command = ["sh", "-c", _READ, "sh", f"{record.shared.path}/{folder}", minutes]
    lines = head.run(command, sudo=True).out.splitlines()
    return [(name, text) for name, _, text in (line.partition(" ") for line in lines)]


def introduced(
    record: DtoCluster, unknown: Collection[str], head: Host, say: Callable[[str], None]
) -> DtoCluster:
    """Return the record with the keys that the named nodes have published, waiting for them.

    The head, whose own key somebody has confirmed, vouches for the nodes.
    """
    deadline, is_told = time.monotonic() + WAIT_SECONDS, False
    while True:
        keys = published_keys(head, record)
        missing = [name for name in unknown if name not in keys]
        if not missing or time.monotonic() >= deadline:
            break
        if not is_told:
            say(f"waiting for the host keys of {', '.join(missing)}")
            is_told = True
        time.sleep(min(_EVERY_SECONDS, max(0.1, deadline - time.monotonic())))
    nodes = [node for node in record.nodes if node.name in unknown and keys.get(node.name)]
    return record.with_host_keys({node.address: keys[node.name] for node in nodes})
