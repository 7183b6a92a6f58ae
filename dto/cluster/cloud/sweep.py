"""What a cluster has left behind in its cloud, and in which order that can be deleted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

ORDER = (
    "auto-scaling group", "spot request", "instance", "NAT gateway", "elastic IP", "endpoint",
    "launch template", "EFS", "FSx for Lustre", "network interface", "volume", "GPU cluster",
    "disk", "filesystem", "address", "security rule", "security group", "placement group",
    "route table", "subnet", "internet gateway", "VPC", "network", "key pair",
    "instance profile", "IAM role", "SSM parameter", "bucket",
)  # fmt: skip
DATA = ("EFS", "FSx for Lustre", "bucket", "filesystem", "disk")


@dataclass(frozen=True)
class Leftover:
    """One thing with the cluster's tag; `command` deletes it, where a program does that."""

    kind: str
    id: str
    note: str = ""
    command: tuple[str, ...] = ()

    @property
    def is_data(self) -> bool:
        return self.kind in DATA

    def __str__(self) -> str:
        note = self.note or shlex.join(self.command)
        return f"{self.kind} {self.id}" + (f" ({note})" if note else "")


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


@dataclass(frozen=True)
class Reason:
    """Why something could not be deleted; `is_final` where waiting does not help."""

    place: str
    words: str
    is_final: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.words}"


def in_order(left: Iterable[Leftover]) -> list[Leftover]:
    """What others hang on comes last; what dto cannot delete is not in it."""
    known = [one for one in left if one.kind in ORDER]
    return sorted(known, key=lambda one: (ORDER.index(one.kind), one.id))
