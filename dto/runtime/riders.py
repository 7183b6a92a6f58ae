"""Rank 0's buffers, such as BatchNorm's running means, as passengers of a sum over ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

MOST_VALUES = 1 << 18
"""Beyond that, a broadcast of their own is less to carry."""


class Riders:
    """Small buffers that every rank shall have as rank 0 has them.

    They travel as float32 in what is added up anyway: rank 0 writes them, the others write -0.0,
    which changes nothing that it is added to. Values of other types go byte by byte.
    """

    def __init__(
        self, buffers: Sequence[torch.Tensor], device: torch.device, is_source: bool
    ) -> None:
        values = sum(b.numel() * (1 if b.dtype == torch.float32 else b.itemsize) for b in buffers)
        self.are_all = values <= MOST_VALUES and all(b.device == device for b in buffers)
        """Whether they fit; else none rides. `device` is where they are added up."""
        riding = buffers if self.are_all else []
        # .data: autograd need not know, for what is written here is no step of the model
        self._plain = [b.data for b in riding if b.dtype == torch.float32]
        others = [b.data for b in riding if b.dtype != torch.float32]
        self._others = sorted(others, key=lambda b: -b.itemsize)  # so that views are aligned
        self._is_source = is_source
        self._plain_sizes = [b.numel() for b in self._plain]
        self._other_sizes = [b.numel() * b.itemsize for b in self._others]
        self.numel = sum(self._plain_sizes) + sum(self._other_sizes)

    def write(self, place: torch.Tensor) -> None:
        """Put this rank's share of the sum into `place`, flat, of `numel` elements."""
        if not self._is_source:
            place.fill_(-0.0)
            return
        middle = sum(self._plain_sizes)
        if self._plain:
            torch.cat([b.reshape(-1) for b in self._plain], out=place[:middle])
        if self._others:
            whole = torch.cat([b.reshape(-1).view(torch.uint8) for b in self._others])
            place[middle:].copy_(whole)

    def read(self, place: torch.Tensor) -> None:
        """Take what rank 0 wrote out of the sum."""
        if self._is_source:
            return
        parts = torch.split(place, [*self._plain_sizes, sum(self._other_sizes)])
        shaped = [part.view(b.shape) for part, b in zip(parts, self._plain, strict=False)]
        if shaped:
            torch._foreach_copy_(self._plain, shaped)
        if self._others:
            pieces = torch.split(parts[-1].to(torch.uint8), self._other_sizes)
            for piece, buffer in zip(pieces, self._others, strict=True):
                buffer.copy_(piece.view(buffer.dtype).view(buffer.shape))
