"""What a user calls: collectives over all ranks, with checks, a time limit and a choice."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dto.errors import UsageError, WorldError
from dto.runtime.collectives import algorithms
from dto.runtime.collectives.header import DTYPES, Header, require_same
from dto.runtime.collectives.schedule import Schedule, split
from dto.runtime.collectives.wire import Wire
from dto.runtime.probe import probe
from dto.runtime.topology import Topology, choose
from dto.runtime.transport import Messenger, Transport, open_transport
from dto.runtime.world import read_world

log = logging.getLogger(__name__)

ALGORITHMS = ("ring", "tree", "halving_doubling", "hierarchical", "native")
TIMEOUT_SECONDS = 300.0


class Collectives:
    """Every rank makes the same calls in the same order; anything else is an error on all ranks.

    Sums: what travels has the tensor's dtype. Each addition of two numbers is rounded to it once;
    for float16 and bfloat16 it is made in float32 before. A mean is the sum, divided at the end
    (of float16, a sum beyond 65504 is infinite, as with torch). Integers wrap around. The order
    of additions depends on world, algorithm and size alone: equal bits from run to run, and on
    every rank.

    After a lost peer or a time limit the group cannot be used any more: Gloo closes its links.
    """

    def __init__(
        self,
        transport: Transport,
        node: str = "localhost",
        timeout_seconds: float = TIMEOUT_SECONDS,
        cache: Path | None = None,
    ) -> None:
        self.transport = transport
        self.rank, self.size, self.backend = transport.rank, transport.size, transport.name
        self._cache = cache
        self._wire: Wire | None = None
        self._members = range(self.size)
        self.nodes: tuple[str, ...] = (node,) * self.size
        self._topology: Topology | None = None
        self._choices: dict[int, str] = {}
        # NCCL needs no algorithms of ours, and has no time limit for a message
        if transport.name == "gloo" and isinstance(transport, Messenger):
            self._wire = Wire(transport, timeout_seconds)
            self.nodes = tuple(self.share(node))

    @property
    def bytes_sent(self) -> list[int]:
        """Bytes of tensors that this rank has sent so far, by the rank they went to."""
        return list(self._wire.bytes_sent) if self._wire else [0] * self.size

    def all_reduce(
        self,
        tensor: torch.Tensor,
        algorithm: str | None = None,
        reduction: str = "sum",
        timeout_seconds: float | None = None,
    ) -> None:
        """Replace `tensor` on every rank by the sum, or the mean, over all ranks.

        Without an algorithm the cheapest is taken by size and links; `native` is the transport's.
        `timeout_seconds` is for this call, in place of the group's own.
        """
        if algorithm is not None and algorithm not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise UsageError(f"there is no all-reduce algorithm {algorithm!r}: use one of {known}")
        header = _header("all_reduce", tensor, algorithm or "auto", reduction)
        _check_reduction(tensor, reduction)
        is_native = algorithm in (None, "native")
        flat = self._begin(header, tensor, is_native, timeout_seconds)
        chosen = algorithm or self._choose(flat.numel() * flat.element_size())
        if self.size > 1 and flat.numel():
            if chosen == "native":
                self.transport.all_reduce(flat)
            else:
                self._run(flat, self.schedule(chosen, flat.numel()))
        if reduction == "mean":
            flat.div_(self.size)
        _put_back(tensor, flat)

    def reduce_scatter(self, tensor: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
        """This rank's part of the sum: of the flattened tensor, split as torch.tensor_split does.

        The tensor itself stays as it is.
        """
        header = _header("reduce_scatter", tensor, "", reduction)
        _check_reduction(tensor, reduction)
        flat = self._begin(header, tensor).clone()
        span = (0, flat.numel())
        self._run(flat, algorithms.ring_reduce_scatter(self.rank, self._members, span))
        part = flat[slice(*split(span, self.size)[self.rank])].clone()
        return part.div_(self.size) if reduction == "mean" else part

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Everybody's tensor, by rank; of one dtype, and of any shapes up to eight dimensions."""
        header = _header("all_gather", tensor)
        if tensor.dim() > 8:
            raise UsageError(f"all_gather takes up to 8 dimensions, not {tensor.dim()}")
        flat = self._begin(header, tensor)
        shapes = [tuple(shape) for shape in self._shapes] or [tuple(tensor.shape)]
        counts = [torch.Size(shape).numel() for shape in shapes]
        edges = [sum(counts[:number]) for number in range(self.size + 1)]
        pieces = list(zip(edges, edges[1:], strict=False))
        whole = flat.new_empty(edges[-1])
        whole[slice(*pieces[self.rank])] = flat
        self._run(whole, algorithms.gather_pieces(self.rank, self._members, pieces))
        return [
            whole[slice(*piece)].view(shape) for piece, shape in zip(pieces, shapes, strict=True)
        ]

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Overwrite `tensor` with the one of `root`, in place, by a binomial tree."""
        if not 0 <= root < self.size:
            raise UsageError(f"there is no rank {root} to broadcast from in a world of {self.size}")
        flat = self._begin(_header("broadcast", tensor, root=root), tensor)
        span = (0, flat.numel())
        self._run(flat, algorithms.tree_broadcast(self.rank, self._members, span, root))
        _put_back(tensor, flat)

    def share(self, value: Any) -> list[Any]:
        """Everybody's value, by rank; what JSON can hold."""
        text = bytearray(json.dumps(value).encode())
        parts = self.all_gather(torch.frombuffer(text, dtype=torch.uint8))
        return [json.loads(bytes(part.tolist())) for part in parts]

    def pass_on(self, tensor: torch.Tensor, peer: int, sends: bool) -> None:
        """Send one message to `peer`, or receive one; what the probe measures with."""
        assert self._wire is not None
        self._wire.begin("the probe of links")
        move = self._wire.send if sends else self._wire.receive
        self._wire.wait(move(tensor, peer), peer)

    def schedule(self, algorithm: str, numel: int) -> Schedule:
        """The steps that this rank takes in an all-reduce of `numel` elements."""
        span = (0, numel)
        if algorithm == "hierarchical":
            return algorithms.hierarchical(self.rank, self.nodes, span)
        flat = {
            "ring": algorithms.ring,
            "tree": algorithms.tree,
            "halving_doubling": algorithms.halving_doubling,
        }
        return flat[algorithm](self.rank, self._members, span)

    def topology(self) -> Topology:
        """Nodes and links; measured when first asked for, which all ranks do together."""
        if self._topology is None:
            if self._wire is None:
                self._topology = Topology(self.nodes, backend=self.backend)
            else:
                self._topology = probe(self, self._cache)
        return self._topology

    def _choose(self, nbytes: int) -> str:
        if nbytes not in self._choices:
            self._choices[nbytes], _ = choose(nbytes, self.topology())
            if self.rank == 0:
                log.info(self.explain(nbytes))
        return self._choices[nbytes]

    def explain(self, nbytes: int) -> str:
        """The all-reduce that is taken for a tensor of so many bytes, and why, in one line.

        The first call measures links, unless they are known: then all ranks must make it.
        """
        algorithm, reason = choose(nbytes, self.topology())
        return f"all-reduce by {algorithm}: {reason}"

    def _begin(
        self,
        header: Header,
        tensor: torch.Tensor,
        native: bool = False,
        seconds: float | None = None,
    ) -> torch.Tensor:
        """Agree with all ranks on the call; the flattened tensor, a copy where it has gaps."""
        if seconds is not None and not seconds > 0:
            raise UsageError(f"timeout_seconds must be more than 0, not {seconds}")
        if self.size > 1 and (self._wire is None or tensor.device.type != "cpu") and not native:
            raise WorldError(
                f"{header.operation} on send and receive needs Gloo and a tensor on the CPU, not"
                f" {self.backend} and {tensor.device.type}: use all_reduce(algorithm='native')"
            )
        self._shapes: Sequence[Sequence[int]] = []
        if self._wire is not None and tensor.device.type == "cpu":
            self._wire.begin(str(header), seconds)
            headers = self._wire.exchange_headers(header.encode())
            require_same(headers)
            self._shapes = [row[7 : 7 + int(row[6])].tolist() for row in headers]
        return tensor.detach().contiguous().view(-1)

    def _run(self, flat: torch.Tensor, steps: Schedule) -> None:
        if self._wire is not None:
            self._wire.run(flat, steps)


def _header(
    operation: str, tensor: torch.Tensor, algorithm: str = "", reduction: str = "", root: int = 0
) -> Header:
    if not isinstance(tensor, torch.Tensor):
        raise UsageError(f"{operation} takes a tensor, not {type(tensor).__name__}")
    if reduction not in ("", "sum", "mean"):
        raise UsageError(f"there is no reduction {reduction!r}: use sum or mean")
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise UsageError(
            f"{operation} takes dense tensors of {names}, not {tensor.layout} of {tensor.dtype}"
        )
    return Header(operation, tensor.dtype, tuple(tensor.shape), algorithm, reduction, root)


def _check_reduction(tensor: torch.Tensor, reduction: str) -> None:
    if reduction == "mean" and not tensor.dtype.is_floating_point:
        raise UsageError(f"a mean of {tensor.dtype} is no whole number: use sum, then divide")


def _put_back(tensor: torch.Tensor, flat: torch.Tensor) -> None:
    """Into a tensor with gaps in its memory, whose flattened form was a copy."""
    if flat.data_ptr() != tensor.data_ptr():
        tensor.detach().copy_(flat.view(tensor.shape))


@functools.cache
def _default() -> Collectives:
    """The world that this process was started into."""
    world = read_world(os.environ)
    transport = open_transport("auto", world, torch.device("cpu"), os.environ)
    atexit.register(transport.close)
    run = os.environ.get("DTO_RUN_DIR")
    return Collectives(transport, world.node, cache=Path(run).parent / ".links" if run else None)


def all_reduce(
    tensor: torch.Tensor,
    algorithm: str | None = None,
    reduction: str = "sum",
    timeout_seconds: float | None = None,
) -> None:
    """Replace `tensor` on every rank by the sum, or the mean, over all ranks of the job.

    `algorithm`: ring, tree, halving_doubling, hierarchical, or native (the transport's own);
    without one the cheapest by size and measured links, which rank 0 logs with its reason.
    A rank that is not there after `timeout_seconds` (300) is a WorldError that names it; NCCL and
    Horovod keep to time limits of their own.
    """
    _default().all_reduce(tensor, algorithm, reduction, timeout_seconds)


def reduce_scatter(tensor: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
    """This rank's part of the sum of the flattened tensor, split as torch.tensor_split does."""
    return _default().reduce_scatter(tensor, reduction)


def all_gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Everybody's tensor, by rank; of one dtype, and of any shapes."""
    return _default().all_gather(tensor)


def broadcast(tensor: torch.Tensor, root: int = 0) -> None:
    """Overwrite `tensor` on every rank with the one of `root`."""
    _default().broadcast(tensor, root)
