"""How one weight is cut over ranks: pure arithmetic on its shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dto.checkpoint.sharded import Part


@dataclass(frozen=True)
class Cut:
    """Every rank gets its share of each of `blocks` equal blocks along `dim`, one after the other.

    A fused query, key and value weight [3 · width, width] is cut with `dim` 0 and 3 blocks: a rank
    then holds some heads of all three, instead of all heads of one.
    """

    dim: int
    blocks: int = 1

    def take(self, whole: torch.Tensor, rank: int, size: int) -> torch.Tensor:
        """This rank's part, in memory of its own."""
        blocks = whole.chunk(self.blocks, self.dim)
        return torch.cat([block.chunk(size, self.dim)[rank] for block in blocks], self.dim)

    def join(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """The whole again, from everybody's part by rank."""
        cut = [piece.chunk(self.blocks, self.dim) for piece in pieces]
        return torch.cat([share[n] for n in range(self.blocks) for share in cut], self.dim)

    def parts(self, name: str, shape: Sequence[int], rank: int, size: int) -> tuple[Part, ...]:
        """Where the elements of this rank's part lie in the whole one, which is of `shape`."""
        block = shape[self.dim] // self.blocks
        inner = math.prod(shape[self.dim + 1 :])
        length = block // size * inner  # elements that are neighbours in both
        outer = math.prod(shape[: self.dim])
        begins = [
            (row * shape[self.dim] + number * block) * inner + rank * length
            for row in range(outer)
            for number in range(self.blocks)
        ]
        return tuple(
            Part(name, tuple(shape), begin, begin + length, place * length)
            for place, begin in enumerate(begins)
        )


def whole_part(name: str, tensor: torch.Tensor) -> tuple[Part, ...]:
    """A parameter that is not cut."""
    return (Part(name, tuple(tensor.shape), 0, tensor.numel()),)
