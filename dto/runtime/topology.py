"""How ranks are connected, and which all-reduce is the fastest for that: costs as formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

LOOPBACK_LATENCY, LOOPBACK_BANDWIDTH = 100e-6, 1e9


@dataclass(frozen=True)
class Link:
    """The alpha-beta model: n bytes take `latency_seconds` + n / `bytes_per_second`."""

    latency_seconds: float = LOOPBACK_LATENCY
    bytes_per_second: float = LOOPBACK_BANDWIDTH

    def seconds(self, messages: float, sent_bytes: float) -> float:
        return messages * self.latency_seconds + sent_bytes / self.bytes_per_second


@dataclass(frozen=True)
class Topology:
    """The node of each rank, the slowest link inside nodes and the slowest between them."""

    nodes: tuple[str, ...]
    inside: Link = Link()
    across: Link = Link()
    backend: str = "gloo"
    machines: Mapping[str, str] = field(default_factory=dict)
    """By node, what it has (machine.py); it is told with a choice."""

    @property
    def slowest(self) -> Link:
        """What a flat algorithm waits for: one slow link holds up the whole ring."""
        return self.inside if len(set(self.nodes)) < 2 else self.across


def members_by_node(nodes: Sequence[str]) -> list[list[int]]:
    """The ranks of each node, from the node of each rank; nodes in the order of their ranks."""
    members: dict[str, list[int]] = {name: [] for name in nodes}
    for rank, name in enumerate(nodes):
        members[name].append(rank)
    return list(members.values())


def choose(nbytes: int, topology: Topology) -> tuple[str, str]:
    """The algorithm with the lowest cost for `nbytes` on every rank, and the reason, in words.

    Pure: ranks that know the same topology choose the same. On NCCL the native one is taken; it
    knows NVLink and InfiniBand, which send and receive here do not. By these formulas the tree
    never beats halving and doubling, which has no more rounds; it is there to compare with.
    """
    n = len(topology.nodes)
    if n == 1:
        return "native", "a world of one has nothing to send"
    if topology.backend != "gloo":
        return "native", f"{topology.backend} has its own all-reduce"
    legal = [name for name in _COSTS if name != "hierarchical" or _is_even(topology)]
    costs = {name: _COSTS[name](nbytes, topology) for name in legal}
    best = min(costs, key=lambda name: costs[name])
    told = ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in costs.items())
    return best, f"{nbytes} bytes over {_where(topology)}: {told}"


def _where(topology: Topology) -> str:
    """ "4 ranks on 2 nodes (a, b: no GPU, eth0 10 Gbit/s)"."""
    nodes = len(set(topology.nodes))
    where = f"{len(topology.nodes)} ranks on {nodes} node{'s' if nodes > 1 else ''}"
    alike: dict[str, list[str]] = {}
    for node, text in topology.machines.items():
        alike.setdefault(text, []).append(node)
    told = "; ".join(f"{', '.join(names)}: {text}" for text, names in alike.items())
    return f"{where} ({told})" if told else where


def ring_seconds(nbytes: int, topology: Topology) -> float:
    """2(n-1) messages, 2(n-1)/n of the bytes."""
    n = len(topology.nodes)
    return topology.slowest.seconds(2 * (n - 1), 2 * (n - 1) / n * nbytes)


def tree_seconds(nbytes: int, topology: Topology) -> float:
    """2 ceil(log2 n) messages, each of all bytes."""
    rounds = 2 * math.ceil(math.log2(len(topology.nodes)))
    return topology.slowest.seconds(rounds, rounds * nbytes)


def halving_doubling_seconds(nbytes: int, topology: Topology) -> float:
    """2 log2 p messages, 2(p-1)/p of the bytes, p the largest power of two up to n; where n is
    none itself, two messages of all bytes more."""
    n = len(topology.nodes)
    p = 1 << (n.bit_length() - 1)
    folds = 0 if p == n else 2
    messages = 2 * (p.bit_length() - 1) + folds
    return topology.slowest.seconds(messages, (2 * (p - 1) / p + folds) * nbytes)


def hierarchical_seconds(nbytes: int, topology: Topology) -> float:
    """A ring inside nodes of g ranks, and g rings at once over m nodes, each for 1/g of the bytes.

    The g rings of a node share its way out, so that between nodes all bytes count.
    """
    groups = members_by_node(topology.nodes)
    g, m = len(groups[0]), len(groups)
    inside = topology.inside.seconds(2 * (g - 1), 2 * (g - 1) / g * nbytes)
    return inside + topology.across.seconds(2 * (m - 1), 2 * (m - 1) / m * nbytes)


_COSTS: dict[str, Callable[[int, Topology], float]] = {
    "ring": ring_seconds,
    "tree": tree_seconds,
    "halving_doubling": halving_doubling_seconds,
    "hierarchical": hierarchical_seconds,
}


def _is_even(topology: Topology) -> bool:
    """Several nodes with several ranks each, the same number everywhere."""
    sizes = {len(group) for group in members_by_node(topology.nodes)}
    return len(set(topology.nodes)) > 1 and len(sizes) == 1 and sizes != {1}
