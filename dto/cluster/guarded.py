"""What the head's cost guard is told of a cluster: machines, prices, budget, power commands."""

from __future__ import annotations

import base64
import json
from typing import Any

from dto.cluster.inventory import DtoCluster
from dto.cluster.inventory_hosts import Host, Node


def guard_variable(record: DtoCluster) -> str:
    """Return the guard's facts for Ansible, "" where there is nothing to guard.

    In base64, for a power command may hold braces that Ansible would take for a template.
    """
    if not has_guard(record):
        return ""
    text = json.dumps(guard_facts(record), indent=1, ensure_ascii=False)
    return base64.b64encode(f"{text}\n".encode()).decode()


def has_guard(record: DtoCluster) -> bool:
    """Tell whether something costs money, or comes back only if the head asks for it."""
    costs = record.budget != type(record.budget)() or any(
        hourly_price(record, host) is not None for host in record.members
    )
    returns = record.power.on is not None and any(node.spot for node in record.nodes)
    return costs or (returns and record.provider != "aws")


def guard_facts(record: DtoCluster) -> dict[str, Any]:
    return {
        "provider": record.provider,
        "region": record.region,
        "cloud": record.cloud.model_dump(mode="json"),
        "budget": record.budget.model_dump(mode="json"),
        "power": record.power.model_dump(mode="json"),
        "members": [_member(record, host) for host in record.members],
    }


def _member(record: DtoCluster, host: Host) -> dict[str, Any]:
    node = host if isinstance(host, Node) else None
    return {
        "name": host.name,
        "address": host.address,
        "instance_id": host.instance_id,
        "group": node.group if node else "",
        "partitions": [one.name for one in record.partitions()
                       if node and one.feature in (None, node.group)],
        "price": hourly_price(record, host),
        "is_node": node is not None,
        "is_head": host.name == record.head.name,
    }  # fmt: skip


def hourly_price(record: DtoCluster, host: Host) -> float | None:
    """Return what a machine costs an hour: its own price, else its type's; None is not known."""
    if host.hourly_usd is not None:
        return host.hourly_usd
    prices, kind = record.prices or {}, host.instance_type
    if kind is None:
        return None
    is_spot = isinstance(host, Node) and host.spot
    return prices.get(f"{kind}-spot", prices.get(kind)) if is_spot else prices.get(kind)
