"""How gradients are packed into flat buckets: a pure function of the model, never of timing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

CAPACITY_BYTES = 8 << 20
"""Big enough for bandwidth, small enough that the first leaves while backward goes on."""


@dataclass(frozen=True)
class Spec:
    """One parameter, as far as the layout is concerned."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Bucket:
    """Parameters by their number, and where each begins; `extra` float32 values come after."""

    members: tuple[int, ...]
    offsets: tuple[int, ...]
    numel: int
    dtype: torch.dtype
    device: torch.device
    extra: int = 0


def plan_buckets(
    specs: Sequence[Spec], extra: int, capacity_bytes: int = CAPACITY_BYTES
) -> list[Bucket]:
    """Fill buckets in reverse order, the order in which backward makes gradients.

    The last bucket is of float32 and has room for `extra` values that must travel with it; a
    model without float32 parameters gets a bucket of its own for them.
    """
    open_buckets: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    closed: list[list[int]] = []
    for number in reversed(range(len(specs))):
        spec = specs[number]
        key = (spec.dtype, spec.device)
        current = open_buckets.setdefault(key, [])
        current.append(number)
        if sum(specs[n].numel for n in current) * spec.dtype.itemsize >= capacity_bytes:
            closed.append(open_buckets.pop(key))
    closed.extend(open_buckets.values())
    buckets = [_lay_out(members, specs) for members in closed]
    last = max((n for n, b in enumerate(buckets) if b.dtype == torch.float32), default=None)
    if last is None:
        device = specs[0].device if specs else torch.device("cpu")
        return [*buckets, Bucket((), (), 0, torch.float32, device, extra)]
    tail = buckets.pop(last)
    with_extra = Bucket(tail.members, tail.offsets, tail.numel, tail.dtype, tail.device, extra)
    return [*buckets, with_extra]


def _lay_out(members: Sequence[int], specs: Sequence[Spec]) -> Bucket:
    offsets, position = [], 0
    for number in members:
        offsets.append(position)
        position += specs[number].numel
    first = specs[members[0]]
    return Bucket(tuple(members), tuple(offsets), position, first.dtype, first.device)
