"""Who sits where: from the agents' hellos to every rank's environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dto.errors import PreflightError
from dto.launch.cpus import Seat, share_cpus
from dto.launch.environment import Job, Seating, rank_environment
from dto.launch.spec import Spec

PORTS_ON_FIRST_NODE = 2  # torch's and JAX's


@dataclass(frozen=True)
class Node:
    """One agent's node: what it said in its hello, and the addresses of its connection."""

    name: str
    facts: Mapping[str, Any]
    coordinator_address: str
    """The coordinator as this node reaches it."""
    address: str
    """This node as the coordinator sees it."""
    ports: Sequence[int] = ()


def check(nodes: Sequence[Node], own_version: str) -> None:
    """Refuse nodes that cannot run the job, or not together.

    Raises:
        PreflightError: naming the first node at fault.
    """
    for node in nodes:
        if node.facts["problem"]:
            raise PreflightError(f"node {node.name} {node.facts['problem']}")
        if node.facts["dto"] != own_version:
            theirs = node.facts["dto"]
            raise PreflightError(f"node {node.name} has dto {theirs}, not {own_version}: update it")
        if _minor(node) != _minor(nodes[0]):
            versions = f"{node.facts['python']}, node {nodes[0].name} {nodes[0].facts['python']}"
            raise PreflightError(f"node {node.name} has Python {versions}: install the same")
    hosts = {node.facts["host"] for node in nodes}
    loopback = [node.name for node in nodes if node.coordinator_address.startswith("127.")]
    if len(hosts) > 1 and len(loopback) > 1:
        raise PreflightError(
            f"nodes {loopback[0]} and {loopback[1]} reach the coordinator by a loopback address, "
            "yet are different machines: check their names in /etc/hosts"
        )


def _minor(node: Node) -> str:
    return str(node.facts["python"]).rpartition(".")[0]


def master_address(nodes: Sequence[Node], coordinator_host: str) -> str:
    """Return the address of the first node that all others reach."""
    first = nodes[0]
    others = [node for node in nodes if node.facts["host"] != first.facts["host"]]
    if not others:
        return "127.0.0.1"
    if first.facts["host"] == coordinator_host:
        return others[0].coordinator_address
    return first.address


def ports_needed(index: int, ranks_per_node: int) -> int:
    return ranks_per_node + (PORTS_ON_FIRST_NODE if index == 0 else 0)


def place(
    nodes: Sequence[Node], spec: Spec, job: Job, coordinator_host: str, kv_port: int
) -> list[list[dict[str, Any]]]:
    """Return what each node's agent is told about each of its ranks."""
    per_node = spec.ranks_per_node
    seats = [Seat(n.facts["host"], tuple(n.facts["cpus"]), per_node) for n in nodes]
    shares = share_cpus(seats, spec.cpus_per_rank)
    address = master_address(nodes, coordinator_host)
    workers = [
        f"{address if index == 0 else node.address}:{port}"
        for index, node in enumerate(nodes)
        for port in node.ports[:per_node]
    ]
    result: list[list[dict[str, Any]]] = []
    for index, node in enumerate(nodes):
        given = {**node.facts["given"], **spec.env}
        result.append([])
        for local in range(per_node):
            seating = Seating(
                rank=index * per_node + local,
                world=spec.world,
                local_rank=local,
                local_world=per_node,
                node_rank=index,
                nodes=len(nodes),
                node=node.name,
                master_address=address,
                master_port=nodes[0].ports[per_node],
                jax_port=nodes[0].ports[per_node + 1],
                kv_address=node.coordinator_address,
                kv_port=kv_port,
                interface=node.facts["interface"],
                tf_workers=workers,
                threads=shares[index][local].threads,
            )
            result[-1].append(_entry(seating, job, given, shares[index][local].cpus))
    return result


def _entry(
    seating: Seating, job: Job, given: Mapping[str, str], cpus: Sequence[int]
) -> dict[str, Any]:
    return {
        "rank": seating.rank,
        "local_rank": seating.local_rank,
        "env": rank_environment(seating, job, given),
        "cpus": list(cpus),
    }
