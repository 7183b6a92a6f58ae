"""Reduce-scatter and all-gather as one direct exchange: every rank sends each other its part.

A rank sends and receives (n-1)/n of the bytes, as in a ring, in one step instead of n-1; all
messages are under way at once, so nobody has to drive them while backward computes. Sums are made
in the order of ranks: equal bits from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dto.runtime.transport.base import Handle, Message, Messenger

_SCATTER, _GATHER = 0xD72, 0xD73
_SECONDS = 1800.0


Messages = Sequence[tuple[int, Message]]
"""With the rank at the other end."""


def _wait(messages: Messages, what: str) -> None:
    for peer, message in messages:
        try:
            message.wait(_SECONDS)
        except RuntimeError as error:
            raise RuntimeError(f"rank {peer} was lost in {what}: {error}") from error


class _Gathering:
    def __init__(self, messages: Messages, kept: torch.Tensor) -> None:
        self._messages, self._kept = messages, kept

    def wait(self) -> None:
        _wait(self._messages, "an all-gather")


class _Scattering:
    def __init__(
        self,
        shard: torch.Tensor,
        parts: list[torch.Tensor],
        messages: Messages,
        flat: torch.Tensor,
    ) -> None:
        self._shard, self._parts, self._messages, self._flat = shard, parts, messages, flat

    def wait(self) -> None:
        _wait(self._messages, "a reduce-scatter")
        if self._shard.dtype in (torch.float16, torch.bfloat16):  # round once, not n - 1 times
            self._shard.copy_(torch.stack(self._parts).float().sum(0))
            return
        torch.add(self._parts[0], self._parts[1], out=self._shard)
        for part in self._parts[2:]:
            self._shard.add_(part)


def reduce_scatter(messenger: Messenger, shard: torch.Tensor, flat: torch.Tensor) -> Handle:
    """Start filling `shard` with this rank's n-th part of the sum of all ranks' `flat`."""
    rank, length = messenger.rank, shard.numel()
    pieces = list(torch.split(flat, length))
    coming = [p if n == rank else torch.empty_like(shard) for n, p in enumerate(pieces)]
    messages: list[tuple[int, Message]] = []
    for peer in _others(messenger):
        messages.append((peer, messenger.receive_async(coming[peer], peer, _SCATTER)))
        messages.append((peer, messenger.send_async(pieces[peer], peer, _SCATTER)))
    return _Scattering(shard, coming, messages, flat)


def all_gather(messenger: Messenger, flat: torch.Tensor, shard: torch.Tensor) -> Handle:
    """Start filling `flat` with everybody's `shard`, by rank."""
    pieces = torch.split(flat, shard.numel())
    own = pieces[messenger.rank]
    if own.data_ptr() != shard.data_ptr():
        own.copy_(shard)
    messages: list[tuple[int, Message]] = []
    for peer in _others(messenger):
        messages.append((peer, messenger.receive_async(pieces[peer], peer, _GATHER)))
        messages.append((peer, messenger.send_async(own, peer, _GATHER)))
    return _Gathering(messages, own)


def _others(messenger: Messenger) -> list[int]:
    """All peers, each rank beginning with the next one, so that not all send to the same."""
    rank, size = messenger.rank, messenger.size
    return [(rank + step) % size for step in range(1, size)]
