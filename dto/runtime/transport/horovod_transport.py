"""Collectives of Horovod, over Gloo or whatever it was built with."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dto.errors import ConfigError, WorldError
from dto.runtime.transport.base import Handle, Transport
from dto.runtime.world import World


class _Pending:
    def __init__(self, transport: HorovodTransport, number: int, handle: Any) -> None:
        self._transport, self._number, self._handle = transport, number, handle
        self.output = torch.empty(0)

    def wait(self) -> None:
        self.output = self._transport.finish(self._number, self._handle)


class _Copying:
    """Horovod made its result elsewhere: it is copied to where it was asked for."""

    def __init__(
        self, handle: Handle, result: Callable[[], torch.Tensor], target: torch.Tensor
    ) -> None:
        self._handle, self._result, self._target = handle, result, target

    def wait(self) -> None:
        self._handle.wait()
        self._target.copy_(self._result())


class HorovodTransport:
    """Horovod pairs the calls of ranks by name: here the lowest number that is not under way.

    All ranks start and finish in one order, so they agree on it; and a bucket has the same name
    in every step, which is what Horovod's response cache wants.
    """

    name = "horovod"
    capabilities: frozenset[str] = frozenset({"all_reduce", "broadcast"})

    def __init__(self, world: World) -> None:
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise WorldError(
                f"Horovod cannot be imported ({error}): run scripts/install-horovod.sh,"
                " or choose --backend gloo"
            ) from error
        # Buckets are fused already. Horovod would fuse them again by the clock, and then the
        # order of additions, hence the last bits, would change from run to run.
        os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        hvd.init()
        self._hvd: Any = hvd
        self._busy: set[int] = set()
        self.rank, self.size = int(hvd.rank()), int(hvd.size())
        if (self.rank, self.size) != (world.rank, world.size):
            raise WorldError(
                f"Horovod says rank {self.rank} of {self.size}, the environment says rank"
                f" {world.rank} of {world.size}: start all ranks with one launcher"
            )

    def finish(self, number: int, handle: Any) -> torch.Tensor:
        output: torch.Tensor = self._hvd.synchronize(handle)
        self._busy.discard(number)
        return output

    def _take_number(self) -> int:
        number = next(n for n in itertools.count() if n not in self._busy)
        self._busy.add(number)
        return number

    def all_reduce_async(self, tensor: torch.Tensor) -> Handle:
        number = self._take_number()
        name = f"dto.{number}.{tensor.numel()}.{tensor.dtype}"
        handle = self._hvd.allreduce_async_(tensor, name=name, op=self._hvd.Sum)
        return _Pending(self, number, handle)

    def reduce_scatter_async(self, shard: torch.Tensor, flat: torch.Tensor) -> Handle:
        """Horovod has none on Gloo: twice the bytes, by an all-reduce."""
        mine = torch.split(flat, shard.numel())[self.rank]
        return _Copying(self.all_reduce_async(flat), lambda: mine, shard)

    def all_gather_async(self, flat: torch.Tensor, shard: torch.Tensor) -> Handle:
        number = self._take_number()
        name = f"dto.g{number}.{shard.numel()}.{shard.dtype}"
        handle = self._hvd.allgather_async(shard, name=name)
        pending = _Pending(self, number, handle)
        return _Copying(pending, lambda: pending.output, flat)

    def split(self, parts: Sequence[Sequence[int]]) -> Transport:
        raise ConfigError(
            "horovod runs one group of all ranks: for a mesh or a pipeline use --backend gloo"
        )

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.all_reduce_async(tensor).wait()

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        self._hvd.broadcast_(tensor, root_rank=root, name=f"dto.b{tensor.numel()}.{tensor.dtype}")

    def all_gather_object(self, value: Any) -> list[Any]:
        return list(self._hvd.allgather_object(value, name="dto.objects"))

    def barrier(self) -> None:
        self._hvd.barrier()

    def close(self) -> None:
        if self._hvd.is_initialized():
            self._hvd.shutdown()
