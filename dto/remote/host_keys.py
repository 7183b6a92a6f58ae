"""Which key a host may show: known_hosts files, keys given by hand, and what a host offers."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dto.errors import ConfigError
from dto.remote.errors import FileRefused, HostKeyChanged, UnknownHostKey, where

if TYPE_CHECKING:
    from dto.remote.ssh import SshHost


@dataclass(frozen=True)
class HostKey:
    """A public key, as known_hosts spells it."""

    key_type: str  # such as "ssh-ed25519"
    base64: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self)

    def __str__(self) -> str:
        return f"{self.key_type} {self.base64}"


@dataclass(frozen=True)
class KnownKey:
    """A line that vouches for a key, and where it stands."""

    names: tuple[str, ...]  # patterns or hashes; empty: the key was given for this very host
    key: HostKey
    file: str | None = None
    line: int = 0
    is_revoked: bool = False

    def is_for(self, name: str) -> bool:
        if not self.names:
            return True
        hits = [pattern for pattern in self.names if _matches(pattern, name)]
        return bool(hits) and not any(pattern.startswith("!") for pattern in hits)


def fingerprint(key: HostKey | str) -> str:
    """The key as `ssh-keygen -l` shows it: SHA256:…"""
    blob = _blob((parse_key(key) if isinstance(key, str) else key).base64)
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def parse_key(text: str) -> HostKey:
    """Read "ssh-ed25519 AAAA… [comment]"."""
    words = text.split()
    try:
        key_type, encoded = words[0], words[1]
        blob = _blob(encoded)
        length = int.from_bytes(blob[:4], "big")
        if blob[4 : 4 + length] != key_type.encode() or not 4 + length < len(blob):
            raise ValueError
    except (IndexError, ValueError):
        raise ConfigError(
            f'"{text}" is no host key: write it as in known_hosts, "ssh-ed25519 AAAA…"'
        ) from None
    return HostKey(key_type, encoded)


def parse_known_hosts(text: str, file: str | None = None) -> list[KnownKey]:
    """Read the lines that can be used; like OpenSSH, pass over those that cannot.

    Authorities (@cert-authority) vouch for certificates, which are not asked for.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) < 3 or marker not in ("", "@revoked"):
            continue
        try:
            key = parse_key(f"{words[1]} {words[2]}")
        except ConfigError:
            continue
        names = tuple(words[0].split(","))
        found.append(KnownKey(names, key, file, number, marker == "@revoked"))
    return found


def read_known_hosts(files: Iterable[Path]) -> list[KnownKey]:
    """All that these files vouch for; one that is absent vouches for nothing."""
    found = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise FileRefused("here", str(file), error.strerror or str(error)) from None
        found += parse_known_hosts(text, str(file))
    return found


def format_line(address: str, port: int, key: HostKey | str, *, is_hashed: bool = False) -> str:
    """A known_hosts line, without its end."""
    name = where(address, port)
    return f"{_hashed(name, os.urandom(20)) if is_hashed else name} {key}"


def append_known_host(file: Path, address: str, port: int, key: HostKey | str) -> None:
    """Store a key that somebody has vouched for; the file and its folder are made if need be."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as known:
            known.seek(0, os.SEEK_END)
            is_ended = known.tell() == 0 or os.pread(descriptor, 1, known.tell() - 1) == b"\n"
            line = f"{'' if is_ended else chr(10)}{format_line(address, port, key)}\n"
            known.write(line.encode())
    except OSError as error:
        raise FileRefused("here", str(file), error.strerror or str(error)) from None


def known_name(address: str, port: int, alias: str | None = None) -> str:
    """What known_hosts calls a host; behind an alias, address and port do not matter."""
    return alias or where(address, port)


def known_types(known: Sequence[KnownKey], name: str) -> list[str]:
    """The kinds of keys that are known for a host, which it is asked for first."""
    usable = [one for one in known if one.is_for(name) and not one.is_revoked]
    return list(dict.fromkeys(one.key.key_type for one in usable))


def check_host_key(
    known: Sequence[KnownKey], address: str, port: int, key: HostKey, *, alias: str | None = None
) -> None:
    """Return if somebody vouches for the key; UnknownHostKey or HostKeyChanged if not."""
    name = known_name(address, port, alias)
    mine = [one for one in known if one.is_for(name)]
    if not mine and not alias:  # like OpenSSH: a key that is known at the usual port will do
        mine = [one for one in known if one.is_for(address) and one.key == key]
    if revoked := next((one for one in mine if one.is_revoked and one.key == key), None):
        remedy = "give the host a new one, for that line revokes this key"
        raise HostKeyChanged(address, port, key.fingerprint, revoked.file, revoked.line, remedy)
    valid = [one for one in mine if not one.is_revoked]
    if not valid:
        raise UnknownHostKey(address, port, key.key_type, key.base64, key.fingerprint)
    if any(one.key == key for one in valid):
        return
    other = next((one for one in valid if one.key.key_type == key.key_type), valid[0])
    remedy = "put the new key in its place"
    if other.file:
        remedy = f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(other.file)}"
    raise HostKeyChanged(address, port, key.fingerprint, other.file, other.line, remedy)


def fetch_host_key(
    address: str, port: int = 22, *, timeout: float = 15, via: SshHost | None = None
) -> HostKey:
    """The key that a host offers, without logging in: nobody has vouched for it yet."""
    from dto.remote.wire import Deadline, dial, greet, hang_up, offered_key

    deadline = Deadline(timeout)
    stream = via.tunnel(address, port, timeout) if via else dial(address, port, deadline)
    transport = greet(stream, address, port, deadline)
    try:
        return offered_key(transport)
    finally:
        hang_up(transport)


def _blob(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _matches(pattern: str, name: str) -> bool:
    pattern = pattern.removeprefix("!")
    if pattern.startswith("|1|"):
        salt = pattern.split("|")[2]
        try:
            return _hashed(name, _blob(salt)) == pattern
        except ValueError:
            return False
    # Only * and ? are wild in known_hosts; the brackets of "[host]:port" are not.
    literal = pattern.lower().replace("[", "[[]")
    return fnmatch.fnmatchcase(name.lower(), literal)


def _hashed(name: str, salt: bytes) -> str:
    digest = hmac.new(salt, name.lower().encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
