"""Which host to reach, and as whom: what is given, then ~/.ssh/config, then the usual."""

from __future__ import annotations

import getpass
import glob
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dto.errors import ConfigError, UsageError
from dto.remote.host_keys import KnownKey, parse_key, read_known_hosts

if TYPE_CHECKING:
    from paramiko import SSHConfigDict

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_MOST_FILES = 100


@dataclass(frozen=True)
class SshTarget:
    """A host to log in to. What is None or empty comes from ~/.ssh/config, or is the usual."""

    address: str  # may be an alias of ~/.ssh/config
    user: str | None = None
    port: int | None = None
    key: str | Path | None = None  # a private key's file
    bastion: SshTarget | str | None = None  # "[user@]host[:port]", several by commas
    known_hosts: tuple[Path, ...] = ()
    host_keys: tuple[str, ...] = ()  # "ssh-ed25519 AAAA…": trusted besides known_hosts
    host_key_alias: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """A target with everything decided."""

    name: str
    address: str
    port: int
    user: str
    key: Path | None  # the one that was given
    other_keys: tuple[Path, ...]  # tried if they exist
    uses_agent_freely: bool  # else only those of the agent's keys that have a file here
    known: tuple[KnownKey, ...] = field(repr=False)
    alias: str | None
    jump: SshTarget | None


def resolve(target: SshTarget) -> Endpoint:
    """Decide everything about a target; ConfigError where ~/.ssh/config cannot be followed."""
    folder = Path.home() / ".ssh"
    settings = _lookup(folder / "config", target.address)
    jump = _jump(target, settings.get("proxyjump"))
    if jump is None and target.bastion is None and settings.get("proxycommand"):
        raise ConfigError(
            f"~/.ssh/config gives {target.address} a ProxyCommand, which is not run here:"
            " use ProxyJump"
        )
    identities = tuple(Path(name).expanduser() for name in settings.get("identityfile", []))
    given = tuple(KnownKey((), parse_key(text)) for text in target.host_keys)
    files = target.known_hosts or _known_hosts_files(folder, settings)
    return Endpoint(
        name=target.address,
        address=settings["hostname"],
        port=target.port or _port(settings.get("port", "22"), "~/.ssh/config"),
        user=target.user or settings.get("user") or getpass.getuser(),
        key=Path(target.key).expanduser() if target.key else None,
        other_keys=identities or tuple(folder / name for name in _DEFAULT_KEYS),
        uses_agent_freely=settings.get("identitiesonly", "no").lower() != "yes",
        known=(*given, *read_known_hosts(files)),
        alias=target.host_key_alias or settings.get("hostkeyalias"),
        jump=jump,
    )


def parse_jump(text: str, target: SshTarget) -> SshTarget:
    """Read "[user@]host[:port]", several by commas: the last one is reached through the others.

    A bastion takes the target's key and known_hosts files, not its user: so does OpenSSH.
    """
    before, _, last = text.strip().rpartition(",")
    found = re.fullmatch(r"(?:ssh://)?(?:(.+)@)?(?:\[(.+)\]|([^:@]+))(?::(\d+))?/?", last.strip())
    if found is None:
        raise UsageError(f'"{text}" names no bastion: write [user@]host[:port]')
    user, bracketed, plain, port = found.groups()
    return SshTarget(
        address=bracketed or plain,
        user=user,
        port=_port(port, f'"{text}"') if port else None,
        key=target.key,
        bastion=before or None,
        known_hosts=target.known_hosts,
    )


def _jump(target: SshTarget, configured: str | None) -> SshTarget | None:
    if isinstance(target.bastion, SshTarget):
        return target.bastion
    text = target.bastion or configured
    return parse_jump(text, target) if text and text.lower() != "none" else None


def _port(text: str, source: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise ConfigError(f"{source} gives a port of {text}: a port is a number from 1 to 65535")


def _known_hosts_files(folder: Path, settings: SSHConfigDict) -> list[Path]:
    mine = settings.get("userknownhostsfile", f"{folder}/known_hosts {folder}/known_hosts2")
    common = settings.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts")
    names = shlex.split(mine) + shlex.split(common)
    home = str(Path.home())
    return [Path(name.replace("%d", home)).expanduser() for name in names if name.lower() != "none"]


def _lookup(file: Path, address: str) -> SSHConfigDict:
    from paramiko import ConfigParseError, SSHConfig, SSHException

    try:
        text = "\n".join(_lines(file, file.parent, [0])) if file.exists() else ""
        return SSHConfig.from_text(text).lookup(address)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    except (SSHException, ConfigParseError, ValueError) as error:
        raise ConfigError(f"{file} cannot be followed: {error}") from None


def _lines(file: Path, folder: Path, count: list[int]) -> Iterator[str]:
    """The lines of a config file and of what it includes, which paramiko does not follow."""
    count[0] += 1
    if count[0] > _MOST_FILES:
        raise ValueError("its Include lines lead in a circle")
    section = "Host *"
    for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() == "include":
            for pattern in shlex.split(rest):
                path = str(folder / Path(pattern).expanduser())
                for name in sorted(glob.glob(path)):
                    yield from _lines(Path(name), folder, count)
            yield section  # what the included file opened ends with it
            continue
        if word.lower() in ("host", "match"):
            section = line
        yield line
