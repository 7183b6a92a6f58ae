"""What every transport can do; strategies are written against this and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

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

    def reduce_scatter_async(self, shard: torch.Tensor, flat: torch.Tensor) -> Handle:
        """Start filling `shard` with this rank's n-th part of the sum of all ranks' `flat`.

        Both are flat, of one dtype, `flat` of `size` times the elements. `flat` must not change
        until the handle is done; `shard` is no part of it.
        """

    def all_gather_async(self, flat: torch.Tensor, shard: torch.Tensor) -> Handle:
        """Start filling `flat` with everybody's `shard`, by rank; it may lie in its place there."""

    def split(self, parts: Sequence[Sequence[int]]) -> Transport:
        """The transport of the part this rank is in; every rank names the same parts.

        Each rank is in exactly one part, and is numbered by its place there. Needs the capability
        "split". The parts' ranks are those of this transport.
        """

    def barrier(self) -> None:
        """Return when every rank is here."""

    def close(self) -> None:
        """Leave the group; a second call does nothing."""


class Message(Protocol):
    """A send or a receive under way."""

    def wait(self, seconds: float) -> None:
        """Return when its memory may be used; RuntimeError if the peer is lost, or too slow."""


@runtime_checkable
class Messenger(Protocol):
    """What a transport with the capability "send" can do besides.

    Messages from one rank to another with one tag arrive in the order in which they were sent,
    and both sides give a tensor of one size.
    """

    rank: int
    size: int

    def send_async(self, tensor: torch.Tensor, peer: int, tag: int) -> Message:
        """Start sending a contiguous tensor, which must not change until the message is done."""

    def receive_async(self, tensor: torch.Tensor, peer: int, tag: int) -> Message:
        """Start filling a contiguous tensor with what `peer` sends."""


class Done:
    """The handle of what is finished already."""

    def wait(self) -> None:
        return
