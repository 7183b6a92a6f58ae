"""This machine's addresses, its interfaces, and ports that are free on it."""

from __future__ import annotations

import array
import fcntl
import os
import random
import socket
import struct
from pathlib import Path

from dto.errors import PreflightError
from dto.runs.processes import boot_id

_SIOCGIFCONF = 0x8912
_IFREQ_BYTES = 40  # struct ifreq: 16 of name, then family, port, 4 of address, padding
_PORTS = range(10_000, 32_768)


def own_addresses() -> list[tuple[str, str]]:
    """Return (interface, IPv4 address) of this machine, loopback last."""
    buffer = array.array("B", bytes(256 * _IFREQ_BYTES))
    where, size = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe.fileno(), _SIOCGIFCONF, struct.pack("iL", size, where))
    (used,) = struct.unpack_from("i", answer)
    raw = buffer.tobytes()[:used]
    rows = [raw[start : start + _IFREQ_BYTES] for start in range(0, used, _IFREQ_BYTES)]
    pairs = [
        (row[:16].split(b"\0", 1)[0].decode().partition(":")[0], socket.inet_ntoa(row[20:24]))
        for row in rows
    ]
    return sorted(pairs, key=lambda pair: pair[1].startswith("127."))


def interface_of(address: str) -> str:
    """Return the interface that owns an address, "" if none does (an address behind NAT)."""
    return next((name for name, own in own_addresses() if own == address), "")


def host_identity() -> str:
    """Return what two processes share exactly when 127.0.0.1 is the same place for both.

    Containers on one kernel share its boot id but not its network.
    """
    return f"{boot_id()}/{os.readlink('/proc/self/ns/net')}"


def free_ports(count: int) -> list[int]:
    """Return ports that could be bound just now, all below the range of outgoing connections.

    A port inside that range may be taken by any connection before the rank binds it.
    """
    low, high = _ephemeral_range()
    candidates = [port for port in _PORTS if not low <= port <= high]
    found: list[int] = []
    for port in random.sample(candidates, len(candidates)):
        if len(found) == count:
            break
        if _can_bind(port):
            found.append(port)
    if len(found) < count:
        raise PreflightError(f"only {len(found)} of {count} ports are free on this machine")
    return found


def _ephemeral_range() -> tuple[int, int]:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return int(text[0]), int(text[1])


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
