"""A transport whose all-reduce is the algorithm that the user chose, still beside backward."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from dto.errors import ConfigError
from dto.runtime.collectives.group import Collectives
from dto.runtime.transport.base import Handle, Transport


class _Later:
    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def wait(self) -> None:
        self._future.result()


class Patterned:
    """Everything else is the other transport's. One thread sends, in the order of the calls."""

    def __init__(self, transport: Transport, algorithm: str, node: str = "localhost") -> None:
        if transport.size > 1 and "send" not in transport.capabilities:
            raise ConfigError(
                f"{transport.name} has no send and receive, of which {algorithm} is made:"
                " use --backend gloo"
            )
        self._transport = transport
        self._algorithm = algorithm
        self._collectives = Collectives(transport, node)
        self._thread = ThreadPoolExecutor(1, "dto-all-reduce")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def all_reduce_async(self, tensor: torch.Tensor) -> Handle:
        return _Later(self._thread.submit(self._collectives.all_reduce, tensor, self._algorithm))

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.all_reduce_async(tensor).wait()

    def split(self, parts: Sequence[Sequence[int]]) -> Transport:
        return self._transport.split(parts)
