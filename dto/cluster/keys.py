"""Public keys: what a host's and a user's look like, and the cluster's own known_hosts file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dto.cluster import words
from dto.runs.files import write_atomic

if TYPE_CHECKING:
    from dto.cluster.inventory import DtoCluster

_HOST_KEY_TYPES = {
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
}
_USER_KEY_TYPES = _HOST_KEY_TYPES | {
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
}


def host_key(value: str) -> str:
    """`type base64` as ssh-keyscan prints it after the address; a comment is dropped."""
    parts = value.split()
    if len(parts) < 2 or not _is_key(parts[0], parts[1], _HOST_KEY_TYPES):
        raise ValueError(
            f"{value[:40]!r} is not a host key; write `type base64`, as in "
            "/etc/ssh/ssh_host_ed25519_key.pub"
        )
    return f"{parts[0]} {parts[1]}"


def user_key(value: str) -> str:
    """A line of authorized_keys; options in front are kept."""
    parts = value.split()
    pairs = zip(parts, parts[1:], strict=False)
    if not any(_is_key(kind, blob, _USER_KEY_TYPES) for kind, blob in pairs):
        raise ValueError(
            f"{value[:40]!r} is not a public key; write the line of a .pub file: ssh-ed25519 AAAA…"
        )
    return value.strip()


def _is_key(kind: str, blob: str, kinds: set[str]) -> bool:
    """Whether the base64 names the same type inside: a key cut short or mixed up does not."""
    if kind not in kinds:
        return False
    try:
        raw = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return False
    parts = 0
    while raw:
        if len(raw) < 4 or len(raw) < 4 + struct.unpack(">I", raw[:4])[0]:
            return False
        length = struct.unpack(">I", raw[:4])[0]
        if parts == 0 and raw[4 : 4 + length] != kind.encode():
            return False
        raw = raw[4 + length :]
        parts += 1
    return parts >= 2


def fingerprint(key: str) -> str:
    """Return what `ssh-keygen -lf` and ssh's question show of a `type base64` key."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def known_hosts(record: DtoCluster, kept: str = "") -> str:
    """Return the lines of a known_hosts file for the record's hosts.

    A key that is written under one address of a host counts for all its addresses. `kept` is the
    text of an earlier file: keys that were confirmed stay, unless the record says otherwise.
    """
    keys: dict[str, list[str]] = {}
    for place, found in _parsed(kept):
        keys.setdefault(place, []).append(found)
    for places in _known_together(record):
        given = [key for _, address in places for key in record.host_keys.get(address, ())]
        if given:
            keys |= {place: list(dict.fromkeys(given)) for place, _ in places}
    return "".join(f"{place} {key}\n" for place in sorted(keys) for key in keys[place])


def write_known_hosts(path: Path, record: DtoCluster) -> None:
    """Bring the cluster's own known_hosts file up to date; a reader never sees half of it."""
    kept = path.read_text("utf-8") if path.exists() else ""
    text = known_hosts(record, kept)
    if text != kept or not path.exists():
        write_atomic(path, text)
    os.chmod(path, 0o600)


def _known_together(record: DtoCluster) -> Iterable[list[tuple[str, str]]]:
    """Yield, host by host, its (place in known_hosts, address) pairs; also strangers' keys."""
    port = record.ssh.port
    hosts = [host.addresses for host in record.members]
    strangers = set(record.host_keys) - {address for places in hosts for address in places}
    for addresses in (*hosts, *((stranger,) for stranger in sorted(strangers))):
        yield [(_place(address, port), address) for address in addresses]
    if record.ssh.bastion:
        _, host, bastion_port = words.jump_parts(record.ssh.bastion)
        yield [(_place(host, bastion_port or 22), host)]


def forget_hosts(path: Path, addresses: Iterable[str], port: int) -> None:
    """Drop the keys of hosts that left, so that others may take their addresses."""
    if not path.exists():
        return
    gone = {_place(address, port) for address in addresses}
    kept = [f"{place} {key}\n" for place, key in _parsed(path.read_text("utf-8"))]
    write_atomic(path, "".join(line for line in kept if line.split()[0] not in gone))
    os.chmod(path, 0o600)


def _place(address: str, port: int) -> str:
    """The way ssh writes an address in known_hosts."""
    return address.lower() if port == 22 else f"[{address.lower()}]:{port}"


def _parsed(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        parts = line.split()
        if len(parts) >= 3 and not parts[0].startswith(("#", "@", "|")):
            for place in parts[0].split(","):
                yield place, f"{parts[1]} {parts[2]}"
