"""The transport of a world of one: every collective is finished before it starts."""

from __future__ import annotations

from typing import Any

import torch

from dto.runtime.transport.base import Done, Handle


class LocalTransport:
    """One rank, nobody to talk to."""

    name = "local"
    rank = 0
    size = 1
    capabilities: frozenset[str] = frozenset({"all_reduce", "broadcast"})

    def all_reduce_async(self, tensor: torch.Tensor) -> Handle:
        return Done()

    def all_reduce(self, tensor: torch.Tensor) -> None:
        return

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        return

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value]

    def barrier(self) -> None:
        return

    def close(self) -> None:
        return
