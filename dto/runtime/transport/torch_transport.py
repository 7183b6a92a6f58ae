"""Collectives of torch.distributed: NCCL between GPUs, Gloo between CPUs."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Its functions take the default group as a default argument. Imported later (torch.optim brings
# it in), they would hold our group for ever: destroying it would not end its threads, and one
# that drops a tensor while Python shuts down aborts the process.
import torch.distributed.nn.functional

from dto.errors import WorldError
from dto.runtime.transport import exchange
from dto.runtime.transport.base import Handle, Message, Transport
from dto.runtime.transport.local import LocalTransport
from dto.runtime.world import World

_SETTLE_SECONDS = 0.005
_settled: list[bool] = []


def _settle_before_forks() -> None:
    """Let Gloo's threads come to rest before this process forks, as a DataLoader does for workers.

    After a collective they drop its tensors, for which they enter Python. A fork at that moment
    copies the interpreter's lock as taken, and up to Python 3.11 the child waits for it for ever.
    """
    if not _settled:
        _settled.append(True)
        os.register_at_fork(before=lambda: time.sleep(_SETTLE_SECONDS))


class _Work:
    def __init__(self, work: dist.Work) -> None:
        self._work = work

    def wait(self) -> None:
        self._work.wait()


class _Message:
    def __init__(self, work: dist.Work) -> None:
        self._work = work

    def wait(self, seconds: float) -> None:
        self._work.wait(timedelta(seconds=seconds))


class TorchTransport:
    """Uses the process group that the script made, or makes one from the environment."""

    capabilities: frozenset[str] = frozenset({"all_reduce", "broadcast", "send", "split"})
    _alone = LocalTransport()

    def __init__(self, backend: str, world: World, device: torch.device) -> None:
        self._owned = not dist.is_initialized()
        if self._owned:
            dist.init_process_group(
                backend,
                rank=world.rank,
                world_size=world.size,
                device_id=device if backend == "nccl" else None,
            )
        self.name = str(dist.get_backend())
        if self.name == "gloo":
            _settle_before_forks()
        self._join(None)
        if (self.rank, self.size) != (world.rank, world.size):
            raise WorldError(
                f"torch.distributed says rank {self.rank} of {self.size}, the environment says"
                f" rank {world.rank} of {world.size}: start all ranks with one launcher"
            )

    def _join(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def split(self, parts: Sequence[Sequence[int]]) -> Transport:
        mine = copy.copy(self)
        mine._owned = False
        for part in parts:
            group = dist.new_group([self.global_rank(rank) for rank in part])
            if self.rank in part:
                mine._join(group)
        return mine

    def global_rank(self, rank: int) -> int:
        """The number that torch.distributed has for a rank of this group."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def all_reduce_async(self, tensor: torch.Tensor) -> Handle:
        work = dist.all_reduce(tensor, group=self.group, async_op=True)
        assert work is not None
        return _Work(work)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        dist.all_reduce(tensor, group=self.group)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        dist.broadcast(tensor, src=self.global_rank(root), group=self.group)

    def reduce_scatter_async(self, shard: torch.Tensor, flat: torch.Tensor) -> Handle:
        if self.size == 1:
            return self._alone.reduce_scatter_async(shard, flat)
        if self.name == "gloo":  # whose own one is an all-reduce and a copy
            return exchange.reduce_scatter(self, shard, flat)
        work = dist.reduce_scatter_tensor(shard, flat, group=self.group, async_op=True)
        assert work is not None
        return _Work(work)

    def all_gather_async(self, flat: torch.Tensor, shard: torch.Tensor) -> Handle:
        if self.size == 1:
            return self._alone.all_gather_async(flat, shard)
        if self.name == "gloo":
            return exchange.all_gather(self, flat, shard)
        work = dist.all_gather_into_tensor(flat, shard, group=self.group, async_op=True)
        assert work is not None
        return _Work(work)

    def send_async(self, tensor: torch.Tensor, peer: int, tag: int) -> Message:
        group = self.group or dist.group.WORLD
        assert group is not None
        return _Message(group.send([tensor], peer, tag))

    def receive_async(self, tensor: torch.Tensor, peer: int, tag: int) -> Message:
        group = self.group or dist.group.WORLD
        assert group is not None
        return _Message(group.recv([tensor], peer, tag))

    def all_gather_object(self, value: Any) -> list[Any]:
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def barrier(self) -> None:
        dist.barrier(group=self.group)

    def close(self) -> None:
        if self._owned and dist.is_initialized():
            dist.destroy_process_group()
