"""What every transport can do; strategies are written against this and nothing else."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> None:
        """Return when the result may be used; raise if a peer went away."""


class Transport(Protocol):
    """Collectives over all ranks. Every rank makes the same calls in the same order."""

    name: str
    rank: int
    size: int
    capabilities: frozenset[str]

    def all_reduce_async(self, tensor: torch.Tensor) -> Handle:
        """Start adding `tensor` up over all ranks, in place."""

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Add `tensor` up over all ranks, in place."""

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Overwrite `tensor` with the one of `root`, in place."""

    def all_gather_object(self, value: Any) -> list[Any]:
        """Everybody's value, by rank. For small things: it is pickled."""

    def barrier(self) -> None:
        """Return when every rank is here."""

    def close(self) -> None:
        """Leave the group; a second call does nothing."""


class Done:
    """The handle of what is finished already."""

    def wait(self) -> None:
        return
