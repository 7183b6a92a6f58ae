"""What a cluster has left behind in its cloud, and in which order that can be deleted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

ORDER = (
    "auto-scaling group", "spot request", "instance", "NAT gateway", "elastic IP", "endpoint",
    "launch template", "EFS", "FSx for Lustre", "network interface", "volume", "security group",
    "placement group", "route table", "subnet", "internet gateway", "VPC", "key pair",
    "instance profile", "IAM role", "SSM parameter", "bucket",
)  # fmt: skip
DATA = ("EFS", "FSx for Lustre", "bucket", "filesystem")


@dataclass(frozen=True)
class Leftover:
    """One thing with the cluster's tag."""

    kind: str
    id: str
    note: str = ""

    @property
    def is_data(self) -> bool:
        return self.kind in DATA

    def __str__(self) -> str:
        return f"{self.kind} {self.id}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Found:
    """`unseen` are kinds that could not be looked for: nothing is said of those."""

    left: tuple[Leftover, ...] = ()
    unseen: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def without(self, ids: Iterable[str]) -> Found:
        kept = set(ids)
        left = tuple(one for one in self.left if one.id not in kept)
        return Found(left, self.unseen, self.notes)


def in_order(left: Iterable[Leftover]) -> list[Leftover]:
    """What others hang on comes last; what dto cannot delete is not in it."""
    known = [one for one in left if one.kind in ORDER]
    return sorted(known, key=lambda one: (ORDER.index(one.kind), one.id))
