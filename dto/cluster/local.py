"""What this machine is to a cluster: its name, its addresses, its GPUs."""

from __future__ import annotations

import socket

from dto.cluster import preflight
from dto.remote.local import LocalHost


def owns(address: str) -> bool:
    """Tell whether an address, or what a name resolves to, is this machine's own."""
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError):
        return False
    return any(_can_bind(family, place) for family, _, _, _, place in found)


def _can_bind(family: int, place: tuple[object, ...]) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((place[0], 0))
        except OSError:
            return False
    return True


def address_towards(other: str = "192.0.2.1") -> str:
    """Return the address from which this machine talks to another; no packet is sent.

    Without any network it is the loopback address: good for a cluster of this machine alone.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(other, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def probe_here() -> preflight.Probe:
    return preflight.probe(LocalHost("this machine"))
