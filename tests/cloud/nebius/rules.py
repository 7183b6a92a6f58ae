"""What the provider refuses beyond the types: one of several, and words out of a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SIZES = ("size_bytes", "size_kibibytes", "size_mebibytes", "size_gibibytes")
_SOURCES = ("source_image_family", "source_image_id", "source_snapshot_id")
_DISKS = {"NETWORK_SSD", "NETWORK_HDD", "NETWORK_SSD_NON_REPLICATED", "NETWORK_SSD_IO_M3"}
AT_MOST_ONE = (_SIZES, _SOURCES)
EXACTLY_ONE = (("existing_disk", "managed_disk"),)

# type of resource -> path -> words
ENUMS: dict[str, dict[str, set[str]]] = {
    "nebius_compute_v1_disk": {"type": _DISKS},
    "nebius_compute_v1_filesystem": {"type": {"NETWORK_SSD", "NETWORK_HDD", "WEKA", "VAST"}},
    "nebius_compute_v1_instance": {
        "recovery_policy": {"RECOVER", "FAIL", "ALWAYS"},
        "preemptible.on_preemption": {"STOP"},
        "reservation_policy.policy": {"AUTO", "FORBID", "STRICT"},
        "boot_disk.attach_mode": {"READ_ONLY", "READ_WRITE"},
        "boot_disk.managed_disk.spec.type": _DISKS,
        "filesystems.attach_mode": {"READ_ONLY", "READ_WRITE"},
        "secondary_disks.attach_mode": {"READ_ONLY", "READ_WRITE"},
    },
    "nebius_vpc_v1_security_rule": {
        "access": {"ALLOW", "DENY"},
        "protocol": {"ANY", "TCP", "UDP", "ICMP"},
        "type": {"STATEFUL", "STATELESS"},
    },
}
_MOST_PER_RULE = 8


def problems(kind: str, config: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong with a resource's configuration; what is not known yet is let through."""
    yield from _together(config, "")
    for path, words in ENUMS.get(kind, {}).items():
        for value in _values(config, path.split(".")):
            if isinstance(value, str) and value not in words:
                yield f"{path}: {value!r} is none of {', '.join(sorted(words))}"
    if kind == "nebius_vpc_v1_security_rule":
        yield from _rule(config)


def _together(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _together(item, path)
    if not isinstance(value, dict):
        return
    for names in AT_MOST_ONE:
        given = [name for name in names if name in value and _is_given(value[name])]
        if len(given) > 1:
            yield f"{path}{' and '.join(given)}: give only one of them"
    for names in EXACTLY_ONE:
        if set(names) <= value.keys():
            yield from _one(value, names, path)
    for name, inner in value.items():
        yield from _together(inner, f"{path}{name}.")


def _one(value: dict[str, Any], names: tuple[str, ...], path: str) -> Iterator[str]:
    given = [name for name in names if _is_given(value[name])]
    open_ones = [name for name in names if value[name] is not None]
    if len(given) > 1 or not open_ones:
        yield f"{path}{' or '.join(names)}: give exactly one of them"


def _is_given(value: Any) -> bool:
    """Known and not null; what is unknown may still become null."""
    return isinstance(value, str | int | float | list | dict)


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _values(item, path)
    elif not path:
        yield value
    elif isinstance(value, dict):
        yield from _values(value.get(path[0]), path[1:])


def _rule(config: dict[str, Any]) -> Iterator[str]:
    yield from _one(config, ("ingress", "egress"), "")
    for way in ("ingress", "egress"):
        side = config.get(way)
        for name, given in side.items() if isinstance(side, dict) else ():
            if isinstance(given, list) and len(given) > _MOST_PER_RULE:
                yield f"{way}.{name}: at most {_MOST_PER_RULE}, not {len(given)}"
    priority = config.get("priority")
    if isinstance(priority, int) and not 0 <= priority <= 1000:
        yield f"priority: {priority} is not from 0 to 1000"
