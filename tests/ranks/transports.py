"""Cases of the transports themselves."""

from __future__ import annotations

from typing import Any

import torch

from dto.runtime.transport import Transport

DTYPES = [torch.float64, torch.float32, torch.float16, torch.int64]


def scatter_and_gather(transport: Transport) -> list[Any]:
    """Bits of a reduce-scatter and of an all-gather, beside those made from everybody's values."""
    found = []
    for length in (1, 7, 1000):
        for dtype in DTYPES if transport.name == "horovod" else [*DTYPES, torch.bfloat16]:
            flat = torch.arange(length * transport.size).remainder(5).add(transport.rank).to(dtype)
            everyones = [
                torch.tensor(values, dtype=dtype)
                for values in transport.all_gather_object(flat.tolist())
            ]
            shard = torch.empty(length, dtype=dtype)
            transport.reduce_scatter_async(shard, flat.clone()).wait()
            mine = slice(transport.rank * length, (transport.rank + 1) * length)
            whole = torch.empty_like(flat)
            transport.all_gather_async(whole, shard).wait()
            total = torch.stack(everyones).sum(0)
            found.append([bool(torch.equal(shard, total[mine])), bool(torch.equal(whole, total))])
    return found


def gather_in_place(transport: Transport) -> list[float]:
    flat = torch.zeros(3 * transport.size)
    mine = flat[3 * transport.rank : 3 * transport.rank + 3]
    mine.fill_(transport.rank + 1)
    transport.all_gather_async(flat, mine).wait()
    return list(flat.tolist())


def halves(transport: Transport) -> list[Any]:
    """Even and odd ranks apart: who I am there, and what we add up to."""
    ranks = list(range(transport.size))
    part = transport.split([ranks[::2], ranks[1::2]])
    value = torch.tensor([float(transport.rank)])
    part.all_reduce(value)
    first = torch.tensor([float(transport.rank)])
    part.broadcast(first)
    return [part.rank, part.size, value.item(), first.item()]


def fail_on_one(transport: Transport) -> int:
    if transport.rank == 1:
        raise ValueError("as asked")
    return transport.rank
