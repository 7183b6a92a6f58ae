"""AWS's limits on running machines: counted in vCPUs, by family, spot apart."""

from __future__ import annotations

import re

# family of the instance type -> quota codes (on demand, spot) of the service ec2
_CODES = {
    "p": ("L-417A185B", "L-7212CCBC"),
    "g": ("L-DB2E81BA", "L-3819A6DF"),
    "vt": ("L-DB2E81BA", "L-3819A6DF"),
    "trn": ("L-2C3B7624", "L-6B0D517C"),
    "inf": ("L-1945791B", "L-B5D1601B"),
    "dl": ("L-6E869C2A", "L-85EED4F7"),
    "f": ("L-74FC7D96", "L-88CF9481"),
    "x": ("L-7295265B", "L-E3A00192"),
}
_STANDARD = ("L-1216C47A", "L-34B43A08")
_P5_SPOT = "L-C4BD4855"
_FAMILY = re.compile(r"[a-z]+")


def family(instance_type: str) -> str:
    """Return p of p5en.48xlarge, trn of trn1.32xlarge."""
    found = _FAMILY.match(instance_type)
    return found[0] if found else ""


def quota_code(instance_type: str, spot: bool) -> str:
    if spot and instance_type.startswith("p5"):
        return _P5_SPOT
    return _CODES.get(family(instance_type), _STANDARD)[1 if spot else 0]


def shortage(
    instance_type: str, count: int, vcpus: int, used: float, limit: float, spot: bool
) -> str | None:
    """Say how far a quota is from what is wanted; None where it is enough."""
    needed = count * vcpus
    if used + needed <= limit:
        return None
    kind = "spot" if spot else "on demand"
    code = quota_code(instance_type, spot)
    in_use = f", {used:g} of them in use" if used else ""
    return (
        f"{count} x {instance_type} need {needed} vCPUs {kind}, the quota is {limit:g}{in_use}:"
        f" ask for more (service quotas, ec2, {code})"
    )
