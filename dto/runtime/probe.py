"""Measures the links of a world with a few messages, and remembers them by the hosts' names."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dto.runs.files import read_json, write_json
from dto.runtime.machine import describe_machine
from dto.runtime.topology import Link, Topology, members_by_node

if TYPE_CHECKING:
    from dto.runtime.collectives.group import Collectives

log = logging.getLogger(__name__)

_PING_BYTES, _BULK_BYTES = 8, 4 << 20
_PINGS, _BULKS = 20, 3


def links_of(nodes: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of ranks that stand for all links: the first two of each node, and the first of
    each node with the first of the next. A ring uses no others."""
    groups = members_by_node(nodes)
    inside = [(group[0], group[1]) for group in groups if len(group) > 1]
    following = zip(groups, groups[1:], strict=False)
    return inside + [(left[0], right[0]) for left, right in following]


def probe(collectives: Collectives, cache: Path | None = None) -> Topology:
    """Ask every link that is not in `cache`, one after the other; every rank calls this.

    `cache` is a folder under the run root: links outlive a run, and a job's user may write there.
    Only rank 0 reads and writes it.
    """
    nodes, backend = collectives.nodes, collectives.backend
    pairs = links_of(nodes)
    files = [_file(cache, nodes[a], nodes[b], backend) for a, b in pairs]
    known = [_read(path) for path in files] if collectives.rank == 0 else []
    known = collectives.share(known)[0]
    asked = _ask_all(collectives, [p for p, k in zip(pairs, known, strict=True) if k is None])
    links = [asked[p] if k is None else Link(*k) for p, k in zip(pairs, known, strict=True)]
    for path, pair in zip(files, pairs, strict=True):
        if collectives.rank == 0 and path is not None and pair in asked:
            _remember(path, asked[pair])
    is_inside = [nodes[a] == nodes[b] for a, b in pairs]
    inside = [link for link, same in zip(links, is_inside, strict=True) if same]
    across = [link for link, same in zip(links, is_inside, strict=True) if not same]
    told = collectives.share(describe_machine())
    machines = dict(zip(reversed(nodes), reversed(told), strict=True))  # as its first rank says
    in_order = {node: machines[node] for node in nodes}
    return Topology(nodes, _slowest(inside), _slowest(across), backend, in_order)


def _ask_all(
    collectives: Collectives, pairs: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Link]:
    """The lower rank's figures of each link, known to all ranks."""
    mine = []
    for number, (low, high) in enumerate(pairs):
        if collectives.rank in (low, high):
            link = _ask(collectives, high if collectives.rank == low else low)
            mine.append([number, link.latency_seconds, link.bytes_per_second])
    told = collectives.share(mine) if pairs else []
    found: dict[tuple[int, int], Link] = {}
    for rank, rows in enumerate(told):
        for number, latency, bandwidth in rows:
            if pairs[number][0] == rank:
                found[pairs[number]] = Link(latency, bandwidth)
    return found


def _slowest(links: Sequence[Link]) -> Link:
    """The worst latency and the worst bandwidth; the default where there is no such link."""
    if not links:
        return Link()
    latency = max(link.latency_seconds for link in links)
    return Link(latency, min(link.bytes_per_second for link in links))


def _ask(collectives: Collectives, peer: int) -> Link:
    """Ping-pong: the shortest round trip is the least disturbed one."""
    latency = _one_way(collectives, peer, _PING_BYTES, _PINGS)
    bulk = _one_way(collectives, peer, _BULK_BYTES, _BULKS)
    return Link(latency, _BULK_BYTES / max(bulk - latency, 1e-9))


def _one_way(collectives: Collectives, peer: int, nbytes: int, times: int) -> float:
    buffer = torch.zeros(nbytes, dtype=torch.uint8)
    begins = collectives.rank < peer
    trips = []
    for _ in range(times):
        began = time.perf_counter()
        for sends in (begins, not begins):
            collectives.pass_on(buffer, peer, sends)
        trips.append((time.perf_counter() - began) / 2)
    return min(trips)


def _file(cache: Path | None, left: str, right: str, backend: str) -> Path | None:
    names = "--".join(sorted((left, right))).replace("/", "_")
    return None if cache is None else cache / f"{names}.{backend}.json"


def _remember(path: Path, link: Link) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, vars(link))
    except OSError as error:
        log.warning("the speed of a link is not remembered: %s", error)


def _read(path: Path | None) -> list[float] | None:
    """A damaged file is as good as none: the link is asked again."""
    found = (read_json(path) if path is not None else None) or {}
    values = [found.get(name) for name in ("latency_seconds", "bytes_per_second")]
    numbers = [value for value in values if isinstance(value, float) and 0 < value < math.inf]
    return numbers if len(numbers) == 2 else None
