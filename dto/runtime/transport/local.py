"""The transport of a world of one: every collective is finished before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dto.runtime.transport.base import Done, Handle


class LocalTransport:
    """One rank, nobody to talk to."""

    name = "local"
    rank = 0
    size = 1
    capabilities: frozenset[str] = frozenset({"all_reduce", "broadcast", "split"})

    def all_reduce_async(self, tensor: torch.Tensor) -> Handle:
        return Done()

    def all_reduce(self, tensor: torch.Tensor) -> None:
        return

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        return

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value]

    def reduce_scatter_async(self, shard: torch.Tensor, flat: torch.Tensor) -> Handle:
        shard.copy_(flat)
        return Done()

    def all_gather_async(self, flat: torch.Tensor, shard: torch.Tensor) -> Handle:
        if flat.data_ptr() != shard.data_ptr():
            flat.copy_(shard)
        return Done()

    def split(self, parts: Sequence[Sequence[int]]) -> LocalTransport:
        return LocalTransport()

    def barrier(self) -> None:
        return

    def close(self) -> None:
        return
