"""Before data moves, every rank tells every other what it calls; a difference is an error.

Without this, two ranks with unlike tensors would write over each other's memory or wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dto.errors import WorldError

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast")
CHOICES = ("", "auto", "native", "ring", "tree", "halving_doubling", "hierarchical")
REDUCTIONS = ("", "sum", "mean")
DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip
_DIMENSIONS = 8
LENGTH = 7 + _DIMENSIONS


@dataclass(frozen=True)
class Header:
    """One call of one rank. Of more than eight dimensions the first eight are told."""

    operation: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    algorithm: str = ""
    reduction: str = ""
    root: int = 0

    def encode(self) -> torch.Tensor:
        shape = self.shape[:_DIMENSIONS]
        numbers = [
            OPERATIONS.index(self.operation), CHOICES.index(self.algorithm),
            REDUCTIONS.index(self.reduction), DTYPES.index(self.dtype), self.root,
            torch.Size(self.shape).numel(), len(self.shape), *shape,
        ]  # fmt: skip
        return torch.tensor(numbers + [0] * (LENGTH - len(numbers)), dtype=torch.int64)

    def __str__(self) -> str:
        words = [self.algorithm, self.reduction, f"root {self.root}" if self.root else ""]
        how = ", ".join(word for word in words if word)
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.operation}{f' ({how})' if how else ''} of {dtype} {list(self.shape)}"


def decode(numbers: torch.Tensor) -> Header:
    operation, algorithm, reduction, dtype, root, _, dimensions, *shape = numbers.tolist()
    return Header(
        OPERATIONS[operation],
        DTYPES[dtype],
        tuple(shape[: min(dimensions, _DIMENSIONS)]),
        CHOICES[algorithm],
        REDUCTIONS[reduction],
        root,
    )


def require_same(headers: Sequence[torch.Tensor]) -> None:
    """Raise on every rank the same words where some rank's header differs from rank 0's."""
    first = headers[0].clone()
    for rank, header in enumerate(headers[1:], start=1):
        other = header.clone()
        if OPERATIONS[int(first[0])] == OPERATIONS[int(other[0])] == "all_gather":
            first[5:] = other[5:] = 0  # parts of any shape may be gathered
        if not torch.equal(first, other):
            raise WorldError(
                f"rank {rank} calls {decode(header)}, but rank 0 calls {decode(headers[0])}:"
                " all ranks must make the same call"
            )
