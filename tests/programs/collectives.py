"""One rank of test_collectives: runs every case, then breaks the group, and prints it as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import dto
from dto.errors import DtoError
from dto.runtime.collectives import Collectives, wire
from dto.runtime.collectives.header import Header
from dto.runtime.transport import open_transport
from dto.runtime.world import read_world

wire.SEGMENT_BYTES = 4096  # so that small tensors, too, travel in several segments
FOLDER = Path(sys.argv[1])
ALGORITHMS = ("ring", "tree", "halving_doubling", "hierarchical")
SIZES = [*range(8), *(2**k + d for k in range(3, 16) for d in (-1, 1)), 1000, 4099, 12345, 65521,
         70001, 99991]  # fmt: skip
EXACT = (torch.int64, torch.int32, torch.uint8)
FEW = SIZES[2::7]  # for all types but float32
ROUNDINGS = {torch.float64: 1e-15, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

world = read_world(os.environ)
transport = open_transport("gloo", world, torch.device("cpu"), os.environ)
RANK, SIZE = transport.rank, transport.size
group = Collectives(transport, f"node{RANK // 2}", 30, FOLDER)


def tensor_of(numel: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * numel + RANK)
    if dtype in EXACT:
        return torch.randint(0, 100, (numel,), generator=generator, dtype=dtype)
    return torch.randn(numel, generator=generator, dtype=torch.float64).to(dtype)


def differences(digest: Any, dtypes: Sequence[torch.dtype]) -> list[str]:
    """Where some algorithm differs from torch's by more than both may round."""
    found = []
    for dtype in dtypes:
        for numel in SIZES if dtype == torch.float32 else FEW:
            mine = tensor_of(numel, dtype)
            theirs, size = mine.clone(), mine.abs().double()
            dist.all_reduce(theirs)
            dist.all_reduce(size)
            for algorithm in ALGORITHMS:
                ours = mine.clone()
                group.all_reduce(ours, algorithm)
                digest.update(ours.view(torch.uint8).numpy().tobytes())
                off = (ours.double() - theirs.double()).abs()
                if (off > 2 * SIZE * ROUNDINGS.get(dtype, 0.0) * size).any():
                    found.append(f"{algorithm} {dtype} {numel}: {off.max()}")
    return found


def parts_and_copies() -> list[str]:
    """What reduce_scatter, all_gather and broadcast got wrong."""
    wrong = []
    for numel in (0, 1, 2, 7, 5000, 12345):
        mine = tensor_of(numel, torch.float64)
        total = mine.clone()
        dist.all_reduce(total)
        part = group.reduce_scatter(mine)
        expected = torch.tensor_split(total, SIZE)[RANK]
        if not torch.allclose(part, expected, rtol=1e-12) or not same(mine, numel):
            wrong.append(f"reduce_scatter {numel}")
        rows = group.all_gather(mine[: numel // (RANK + 1)].view(-1, 1))
        for rank, row in enumerate(rows):
            if not torch.equal(row, rank_tensor(numel, rank)[: numel // (rank + 1)].view(-1, 1)):
                wrong.append(f"all_gather {numel} of {rank}")
        for root in range(SIZE):
            copy = mine.clone()
            group.broadcast(copy, root)
            if not torch.equal(copy, rank_tensor(numel, root)):
                wrong.append(f"broadcast {numel} from {root}")
    return wrong


def rank_tensor(numel: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * numel + rank)
    return torch.randn(numel, generator=generator, dtype=torch.float64)


def same(tensor: torch.Tensor, numel: int) -> bool:
    return torch.equal(tensor, rank_tensor(numel, RANK))


def odd_calls() -> dict[str, Any]:
    gaps = torch.full((6, 8), float(RANK + 1))
    group.all_reduce(gaps[:, ::2], "ring")
    means = {name: torch.full((5,), float(RANK)) for name in (*ALGORITHMS, "native")}
    for name, tensor in means.items():
        group.all_reduce(tensor, name, "mean")
    needs_grad = torch.ones(3, requires_grad=True)
    group.all_reduce(needs_grad, "tree")
    usual = torch.ones(2)
    dto.all_reduce(usual, algorithm="ring")
    return {
        "gaps": [gaps[0, 0].item(), gaps[0, 1].item()],
        "means": [tensor.tolist() for tensor in means.values()],
        "needs_grad": needs_grad.tolist(),
        "dto": usual.tolist(),
    }


def bytes_sent() -> dict[str, list[int]]:
    found = {}
    for algorithm in ALGORITHMS:
        before = group.bytes_sent
        group.all_reduce(torch.ones(12_000), algorithm)
        found[algorithm] = [b - a for a, b in zip(before, group.bytes_sent, strict=True)]
    return found


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except DtoError as error:
        return str(error)
    return "nothing"


def mismatches() -> dict[str, Any]:
    """All ranks are told the same, and the group works on."""
    odd = RANK == SIZE - 1
    found: dict[str, Any] = {
        "shape": refusal(lambda: group.all_reduce(torch.ones(3, 5 if odd else 4), "ring")),
        "dtype": refusal(
            lambda: group.all_reduce(torch.ones(3, dtype=torch.float64 if odd else None), "tree")
        ),
        "call": refusal(
            lambda: (
                group.broadcast(torch.ones(3)) if odd else group.all_reduce(torch.ones(3), "ring")
            )
        ),
        "algorithm": refusal(lambda: group.all_reduce(torch.ones(3), "tree" if odd else "ring")),
    }
    after = torch.ones(3)
    group.all_reduce(after, "ring")
    return {**found, "after": after.tolist()}


def refused_here() -> list[str]:
    return [
        refusal(lambda: group.all_reduce(torch.ones(3), "star")),
        refusal(lambda: group.all_reduce(torch.ones(3), "ring", "product")),
        refusal(lambda: group.all_reduce(torch.ones(3, dtype=torch.int32), "ring", "mean")),
        refusal(lambda: group.all_reduce(torch.ones(3, dtype=torch.complex64), "ring")),
        refusal(lambda: group.broadcast(torch.ones(3), 9)),
    ]


def chosen() -> dict[str, Any]:
    """Measured links, then those that a file in the cache tells."""
    tensor = torch.ones(1000)
    group.all_reduce(tensor)
    measured, names = group.topology(), sorted(path.name for path in FOLDER.iterdir())
    dist.barrier()
    if RANK == 0:
        for name in names:
            (FOLDER / name).write_text('{"latency_seconds": 0.25, "bytes_per_second": 8.0}')
    dist.barrier()
    told = Collectives(transport, f"node{RANK // 2}", 30, FOLDER).topology()
    return {
        "sum": tensor.sum().item(),
        "latency": measured.inside.latency_seconds,
        "files": names,
        "explained": group.explain(4000),
        "told": [told.inside.latency_seconds, told.inside.bytes_per_second],
    }


def broken() -> str:
    """World 2: a peer that does not come. 3: one that dies before. 4: one that dies midway."""
    victim = RANK == SIZE - 1
    seconds = 2.0 if SIZE == 2 else 30.0
    if victim and SIZE == 2:
        time.sleep(4)
    if victim and SIZE == 4:
        group._wire.begin("x")  # type: ignore[union-attr]
        header = Header("all_reduce", torch.float32, (3_000_000,), "ring", "sum")
        group._wire.exchange_headers(header.encode())  # type: ignore[union-attr]
    if victim:
        os._exit(9)
    return refusal(lambda: group.all_reduce(torch.ones(3_000_000), "ring", timeout_seconds=seconds))


digest = hashlib.sha256()
off = differences(digest, [torch.float32])
first = digest.hexdigest()
if sys.argv[2:] == ["--only-bits"]:
    print(json.dumps({"first": first}), flush=True)
    os._exit(9 if RANK == SIZE - 1 else 0)
off += differences(digest, [*EXACT, torch.float64, torch.float16, torch.bfloat16])
results = {
    "differences": off,
    "first": first,
    "digest": digest.hexdigest(),
    "parts": parts_and_copies(),
    "odd": odd_calls(),
    "bytes": bytes_sent(),
    "mismatches": mismatches(),
    "refused": refused_here(),
    "chosen": chosen(),
    "broken": broken(),
}
print(json.dumps(results), flush=True)
os._exit(0)  # the group is broken: there is nothing to leave in order
