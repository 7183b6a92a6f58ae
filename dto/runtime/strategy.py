"""What a way of spreading training over ranks must be able to do; sessions know nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from dto.checkpoint.sharded import Held
from dto.runtime.control import Control


class Strategy(Protocol):
    """Keeps what ranks hold of one model in step. Every rank makes the same calls."""

    @property
    def name(self) -> str:
        """What a checkpoint's manifest says: "ddp", "zero3", "zero1+pipeline"."""

    def set_weight(self, own: int, total: int) -> None:
        """Announce a batch: this rank has `own` of its `total` samples."""

    def no_sync(self) -> AbstractContextManager[None]:
        """Inside, backward accumulates gradients and sends nothing."""

    def synchronise(self) -> None:
        """Average what backward passes inside `no_sync` have left."""

    def take_control(self) -> Control | None:
        """Sums over all ranks that came with the last synchronised backward; None if none did."""

    def broadcast_buffers(self) -> None:
        """Give every replica the buffers of its first rank."""

    def clip_grad_norm(self, max_norm: float) -> torch.Tensor:
        """Scale all gradients such that their norm over the whole model is at most `max_norm`.

        Returns the norm before.
        """

    def held(self) -> Sequence[Held] | None:
        """What this rank holds of the parameters; None where every rank has all of them whole."""

    def reload(self) -> None:
        """The held tensors have new values from outside: let the model follow."""

    def whole(self) -> AbstractContextManager[None]:
        """Inside, the model can be called by this rank alone, where the strategy allows it."""
