"""The private keys that a login may try: the agent's, the one given, the usual files."""

from __future__ import annotations

import base64
import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from dto.remote.errors import KeyUnusable
from dto.remote.target import Endpoint

_AGENT_SECONDS = 3.0
_LIST_IDENTITIES = b"\0\0\0\1\x0b"  # length 1, SSH2_AGENTC_REQUEST_IDENTITIES


@dataclass(frozen=True)
class Candidate:
    """A key that can be tried, and what a message calls it."""

    label: str
    key: paramiko.PKey


@dataclass
class Candidates:
    """What there is to try, in order, and why the rest is not."""

    keys: list[Candidate] = field(default_factory=list)
    left_out: list[KeyUnusable] = field(default_factory=list)
    agent: paramiko.Agent | None = None

    def close(self) -> None:
        if self.agent is not None:
            self.agent.close()


def find_keys(endpoint: Endpoint) -> Candidates:
    """The agent's keys first; KeyUnusable if the key that was given is no use at all."""
    found = Candidates()
    files: list[Candidate] = []
    if endpoint.key is not None:
        _add(files, found, endpoint.key, is_given=True)
    for path in endpoint.other_keys:
        if path != endpoint.key and path.exists():
            _add(files, found, path, is_given=False)
    mine = {one.key.asbytes() for one in files} | _public_halves(endpoint)
    for agent_key in _agent_keys(found):
        if endpoint.uses_agent_freely or agent_key.asbytes() in mine:
            name = agent_key.comment or agent_key.get_name()
            found.keys.append(Candidate(f"{name} of the agent", agent_key))
    held = {one.key.asbytes() for one in found.keys}
    found.keys += [one for one in files if one.key.asbytes() not in held]
    return found


def load_key(path: Path) -> paramiko.PKey:
    """Read a private key; KeyUnusable says what is wrong with it, in its own words."""
    try:
        text = path.read_bytes()
        state = path.stat()
    except FileNotFoundError:
        raise KeyUnusable(str(path), "does not exist: check the path") from None
    except OSError as error:
        raise KeyUnusable(str(path), f"cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY" not in text:
        is_public = text.startswith((b"ssh-", b"ecdsa-", b"sk-"))
        hint = "give the private one, without .pub" if is_public else "give a private key's file"
        raise KeyUnusable(str(path), f"is {'a public' if is_public else 'no private'} key: {hint}")
    if state.st_uid == os.getuid() and stat.S_IMODE(state.st_mode) & 0o077:
        raise KeyUnusable(str(path), f"can be read by others: chmod 600 {path}")
    try:
        return paramiko.PKey.from_path(str(path))
    except (TypeError, paramiko.PasswordRequiredException):
        raise KeyUnusable(
            str(path), f"has a passphrase: give it to the agent first, with ssh-add {path}"
        ) from None
    except paramiko.pkey.UnknownKeyType:
        problem = "is of a kind that only the agent can use: ssh-add it"
        raise KeyUnusable(str(path), problem) from None
    except (ValueError, IndexError, UnsupportedAlgorithm, paramiko.SSHException, OSError):
        problem = "is damaged or in a form that cannot be read: does ssh-keygen -y -f read it?"
        raise KeyUnusable(str(path), problem) from None


def _add(files: list[Candidate], found: Candidates, path: Path, *, is_given: bool) -> None:
    try:
        files.append(Candidate(str(path), load_key(path)))
    except KeyUnusable as error:
        if is_given and "ssh-add" not in error.problem:
            raise
        found.left_out.append(error)


def _agent_keys(found: Candidates) -> tuple[paramiko.AgentKey, ...]:
    path = os.environ.get("SSH_AUTH_SOCK")
    if not path or not _does_answer(path):
        return ()
    try:
        found.agent = paramiko.Agent()
        return found.agent.get_keys()
    except (paramiko.SSHException, OSError):  # it went away just now: go on without it
        return ()


def _does_answer(agent: str) -> bool:
    """A forwarded agent whose other end is gone takes connections and never answers."""
    with socket.socket(socket.AF_UNIX) as stream:
        try:
            stream.settimeout(_AGENT_SECONDS)
            stream.connect(agent)
            stream.sendall(_LIST_IDENTITIES)
            return len(stream.recv(1)) == 1
        except OSError:
            return False


def _public_halves(endpoint: Endpoint) -> set[bytes]:
    """The public keys beside the private ones, which tell which of the agent's are meant."""
    halves = set()
    for path in filter(None, (endpoint.key, *endpoint.other_keys)):
        try:
            halves.add(base64.b64decode(Path(f"{path}.pub").read_text().split()[1]))
        except (OSError, ValueError, IndexError):
            continue
    return halves
