"""Bytes on the wire and bus bandwidth of all-reduces, beside torch's Gloo, Horovod and loopback."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.ranks import has_horovod, run_ranks
from benchmarks.report import Measure, ratio, summary

_ALGORITHMS = ("ring", "tree", "halving_doubling", "hierarchical")
_KIB = 1024
_SIZES = {"64KiB": 64 * _KIB, "1MiB": _KIB**2, "16MiB": 16 * _KIB**2}
_MORE = {"64MiB": 64 * _KIB**2}
Case = Callable[[], float]


def run(quick: bool) -> list[Measure]:
    """Every side lives in one set of ranks, and blocks are shuffled alike on every rank."""
    measures = []
    for world in (2, 4):
        found = _measure("gloo", world, quick)
        measures += _bytes(found["bytes"], world)
        measures += _bandwidths(found["seconds"], world)
    if has_horovod():
        measures += _beside_horovod(_measure("horovod", 2, quick)["seconds"])
    return measures


def _bytes(by_rank: Mapping[str, list[float]], world: int) -> list[Measure]:
    """What the ranks sent, over what the theory says that each sends."""
    return [
        summary(f"collectives.{case}_{world}_ranks.bytes_over_theory", "ratio", shares)
        for case, shares in by_rank.items()
    ]


def _bandwidths(seconds: Mapping[str, Mapping[str, list[float]]], world: int) -> list[Measure]:
    _print_table(seconds, world)
    measures = []
    for size, rows in seconds.items():
        where = f"{world}_ranks_{size}"
        for name in (*_ALGORITHMS, "gloo", "loopback"):
            if name in rows:
                factor = 1.0 if name == "loopback" else 2 * (world - 1) / world
                rates = [_size(size) * factor / s / 1e9 for s in rows[name]]
                measures.append(summary(f"collectives.{name}_{where}.busbw", "GB/s", rates))
        measures += [
            ratio(f"collectives.{name}_{where}.seconds_over_gloo", rows[name], rows["gloo"])
            for name in ("ring", "tree", "halving_doubling")
        ]
        measures.append(ratio(f"collectives.gloo_{where}.a_over_a", rows["again"], rows["gloo"]))
    return measures


def _beside_horovod(seconds: Mapping[str, Mapping[str, list[float]]]) -> list[Measure]:
    """Horovod has no send and receive: both use torch's Gloo group, set up beside its own."""
    _print_table(seconds, 2)
    measures = []
    for size, rows in seconds.items():
        where = f"2_ranks_{size}"
        rates = [_size(size) / s / 1e9 for s in rows["horovod"]]
        measures += [
            summary(f"collectives.horovod_{where}.busbw", "GB/s", rates),
            ratio(
                f"collectives.ring_{where}.seconds_over_horovod", rows["ring"], rows["horovod"]
            ),
        ]
    return measures


def _print_table(seconds: Mapping[str, Mapping[str, list[float]]], world: int) -> None:
    """The columns of nccl-tests, for people; to stderr, since stdout may be JSON.

    Loopback is the limit of TCP: what one rank sends to the next while all do.
    """
    print(f"# {world} ranks, all_reduce, in place, median of the blocks", file=sys.stderr)
    head = f"{'size':>12} {'count':>10} {'type':>6} {'redop':>6} {'algorithm':>17}"
    print(f"{head} {'time':>10} {'algbw':>7} {'busbw':>7}", file=sys.stderr)
    print(f"{'(B)':>12} {'(elements)':>10} {'':>31} {'(us)':>10} (GB/s)  (GB/s)", file=sys.stderr)
    for size, rows in seconds.items():
        for name, samples in rows.items():
            if name == "again":
                continue
            nbytes, median = _size(size), sorted(samples)[len(samples) // 2]
            rate = nbytes / median / 1e9
            factor = 1.0 if name == "loopback" else 2 * (world - 1) / world
            print(
                f"{nbytes:>12} {nbytes // 4:>10} {'float':>6} {'sum':>6} {name:>17}"
                f" {median * 1e6:>10.1f} {rate:>7.2f} {rate * factor:>7.2f}",
                file=sys.stderr,
            )


def _size(name: str) -> int:
    return {**_SIZES, **_MORE}[name]


def _measure(backend: str, world: int, quick: bool) -> Any:
    return run_ranks("collectives", backend, world, {"BENCH_QUICK": str(int(quick))})


def rank_main() -> None:
    """Measure every case in every block, in an order that all ranks draw alike."""
    import torch.distributed as dist

    from dto.runtime.collectives import Collectives
    from dto.runtime.transport import open_transport
    from dto.runtime.world import read_world

    world, quick = read_world(os.environ), os.environ["BENCH_QUICK"] == "1"
    is_horovod = os.environ["DTO_BACKEND"] == "horovod"
    transport = open_transport("gloo", world, torch.device("cpu"), os.environ)
    group = Collectives(transport, f"node{world.rank // 2}", timeout_seconds=120)
    cases: dict[str, Callable[[torch.Tensor], object]] = {
        name: lambda t, name=name: group.all_reduce(t, name)
        for name in (("ring",) if is_horovod else _ALGORITHMS)
        if name != "hierarchical" or len(set(group.nodes)) > 1
    }
    if is_horovod:
        cases["horovod"] = open_transport("horovod", world, torch.device("cpu"), {}).all_reduce
    else:
        cases["gloo"] = cases["again"] = dist.all_reduce
    sizes = _SIZES if quick else {**_SIZES, **_MORE}
    seconds = {name: _blocks(cases, nbytes, 7 if quick else 41) for name, nbytes in sizes.items()}
    if not is_horovod:
        _add_loopback(seconds, group)
    told = {"bytes": {} if is_horovod else _shares(group), "seconds": seconds}
    if world.is_master:
        print(json.dumps(told), flush=True)
    dist.barrier()
    transport.close()


def _blocks(
    cases: Mapping[str, Callable[[torch.Tensor], object]], nbytes: int, blocks: int
) -> dict[str, list[float]]:
    """Seconds a call on this rank, from a barrier on."""
    import torch.distributed as dist

    tensor = torch.zeros(nbytes // 4)
    order, rows = random.Random(0), {name: list[float]() for name in cases}
    for call in cases.values():
        call(tensor)
    for _ in range(blocks):
        for name in order.sample(sorted(cases), len(cases)):
            times = max(1, min(4, (4 << 20) // nbytes))
            dist.barrier()
            began = time.perf_counter()
            for _ in range(times):
                cases[name](tensor)
            rows[name].append((time.perf_counter() - began) / times)
    return rows


def _shares(group: Any) -> dict[str, list[float]]:
    """Bytes that each rank sent, counted where they are sent, over the formula; by rank.

    The numbers are odd, so pieces differ by an element. A tree has no formula for each rank but
    one for all: 2(n-1) S. For hierarchical only what leaves the node counts: 2(m-1)/m S/g.
    """
    n, m = group.size, len(set(group.nodes))
    numel = 999_983
    nbytes = 4 * numel
    theory = {"ring": 2 * (n - 1) / n * nbytes, "halving_doubling": 2 * (n - 1) / n * nbytes}
    theory["tree"] = 2 * (n - 1) * nbytes
    if m > 1:
        theory["hierarchical_across"] = 2 * (m - 1) / m * nbytes / (n // m)
    shares = {}
    for case, expected in theory.items():
        before = group.bytes_sent
        group.all_reduce(torch.ones(numel), case.removesuffix("_across"))
        sent = [after - had for after, had in zip(group.bytes_sent, before, strict=True)]
        if case.endswith("_across"):
            here = group.nodes[group.rank]
            sent = [b for b, node in zip(sent, group.nodes, strict=True) if node != here]
        told = [float(count) for count in group.share(sum(sent))]
        shares[case] = [sum(told) / expected] if case == "tree" else [b / expected for b in told]
    return shares


def _add_loopback(seconds: dict[str, dict[str, list[float]]], group: Any) -> None:
    """What TCP does at most: all ranks send to the next over plain sockets, all at once."""
    import torch.distributed as dist

    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = group.share(server.getsockname()[1])
        there = socket.create_connection(("127.0.0.1", ports[(group.rank + 1) % group.size]))
        here, _ = server.accept()
    with there, here:
        for name, rows in seconds.items():
            payload = bytearray(_size(name))
            rows["loopback"] = []
            for _ in range(7):
                dist.barrier()
                began = time.perf_counter()
                sender = threading.Thread(target=there.sendall, args=(payload,))
                sender.start()
                _take(here, len(payload))
                sender.join()
                rows["loopback"].append(time.perf_counter() - began)


def _take(source: socket.socket, nbytes: int) -> None:
    buffer = memoryview(bytearray(1 << 20))
    while nbytes:
        nbytes -= source.recv_into(buffer, min(nbytes, len(buffer)))


if __name__ == "__main__":
    rank_main()
