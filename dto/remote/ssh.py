"""A host over ssh: logged in to once, then any number of commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import BinaryIO

import paramiko

from dto.errors import ConfigError
from dto.remote.conversation import BROKEN, Broken, Overdue, converse
from dto.remote.errors import (
    AuthenticationRefused,
    ConnectionLost,
    RemoteError,
    TimedOut,
    Unreachable,
)
from dto.remote.host import Host, brief, checked, was_cut, with_deadline
from dto.remote.host_keys import check_host_key, known_name, known_types
from dto.remote.keys import Candidate, Candidates, find_keys
from dto.remote.target import Endpoint, SshTarget, resolve
from dto.remote.wire import Deadline, Stream, dial, greet, hang_up, offered_key

__all__ = ["SshHost", "SshTarget", "connect"]

_MOST_HOPS = 8
_MOST_CALLS = 3  # a server hangs up after some six keys; the rest are tried on a new connection


def connect(target: SshTarget, *, timeout: float = 15) -> SshHost:
    """Log in with a key, through its bastions if it has any; never with a password.

    `timeout` holds for all of it together.
    """
    return _connect(target, Deadline(timeout), _MOST_HOPS)


class SshHost(Host):
    """Commands run there, each under a deadline that also holds when this end is gone."""

    def __init__(
        self, endpoint: Endpoint, transport: paramiko.Transport, bastion: SshHost | None
    ) -> None:
        self.name = endpoint.name
        self.endpoint = endpoint
        self._transport = transport
        self._bastion = bastion

    def close(self) -> None:
        hang_up(self._transport)
        if self._bastion is not None:
            self._bastion.close()

    def tunnel(self, address: str, port: int, timeout: float) -> paramiko.Channel:
        """A connection from that host to another, which only carries bytes."""
        try:
            return self._transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout
            )
        except paramiko.ChannelException as error:
            reason = f"{self.name} cannot reach it for us ({error.text})"
            raise Unreachable(address, port, reason) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            reason = f"{self.name} does not answer when asked to connect to it ({error})"
            raise Unreachable(address, port, reason) from None

    def pipe(
        self,
        argv: Sequence[str],
        source: BinaryIO | None,
        sink: BinaryIO,
        *,
        timeout: float,
        sudo: bool = False,
    ) -> tuple[int, bytes]:
        words = checked(argv, timeout)
        line = command_line(words, timeout, sudo=sudo and self.endpoint.user != "root")
        deadline = Deadline(timeout)
        command = brief(argv)
        channel = self._open(command, deadline)
        try:
            code, err = converse(channel, line, source, sink, deadline)
        except Overdue as overdue:
            raise TimedOut(self.name, command, timeout, is_ended=overdue.is_ended) from None
        except Broken:
            self._transport.join(1)  # it is ending, if it is the connection that broke
            if not self._transport.is_active():
                raise self._lost(f"while `{command}` ran, which may go on there") from None
            raise RemoteError(f"{self.name}: `{command}` was killed from outside") from None
        finally:
            channel.close()
        if was_cut(code, deadline.moment):
            raise TimedOut(self.name, command, timeout)
        return code, err

    def _open(self, command: str, deadline: Deadline) -> paramiko.Channel:
        try:
            return self._transport.open_session(timeout=deadline.left())
        except paramiko.ChannelException as error:
            raise RemoteError(
                f"{self.name} takes no more commands at once ({error.text}): raise MaxSessions in"
                " its sshd_config, or run fewer"
            ) from None
        except BROKEN:
            if deadline.is_past and self._transport.is_active():
                raise TimedOut(self.name, command, deadline.seconds, is_ended=False) from None
            raise self._lost(f"before `{command}` was started") from None

    def _lost(self, when: str) -> ConnectionLost:
        reason = f"the connection broke {when}; is the host still up?"
        return ConnectionLost(self.endpoint.address, self.endpoint.port, reason)


def command_line(words: Sequence[str], timeout: float, *, sudo: bool) -> bytes:
    """What the login shell is given: it hands the words on, whichever shell it is.

    The inner shell stays, to turn a signal into an exit code.
    """
    script = shlex.quote('"$@"; exit $?')
    line = f"exec /bin/sh -c {script} sh {shlex.join(with_deadline(words, timeout, sudo=sudo))}"
    return line.encode("utf-8", "surrogateescape")


def _connect(target: SshTarget, deadline: Deadline, hops: int) -> SshHost:
    if hops == 0:
        raise ConfigError(f"~/.ssh/config leads to {target.address} through ever more bastions")
    endpoint = resolve(target)
    candidates = find_keys(endpoint)
    bastion = None
    try:
        if endpoint.jump is not None:
            bastion = _connect(endpoint.jump, deadline, hops - 1)
        return SshHost(endpoint, _log_in(endpoint, candidates, bastion, deadline), bastion)
    except BaseException:
        if bastion is not None:
            bastion.close()
        raise
    finally:
        candidates.close()


def _log_in(
    endpoint: Endpoint, candidates: Candidates, bastion: SshHost | None, deadline: Deadline
) -> paramiko.Transport:
    waiting = list(candidates.keys)
    tried: list[str] = []
    advice = ""
    for _ in range(_MOST_CALLS):
        transport = _call(endpoint, bastion, deadline)
        try:
            advice = _try_keys(transport, endpoint, waiting, tried)
            if transport.is_authenticated():
                return transport
        except BaseException:
            hang_up(transport)
            raise
        hang_up(transport)
        if deadline.is_past:
            reason = f"the login did not end within {deadline.seconds:g} s"
            raise Unreachable(endpoint.address, endpoint.port, reason)
        if not waiting:
            break
    raise _refusal(endpoint, candidates, tuple(tried), advice)


def _call(endpoint: Endpoint, bastion: SshHost | None, deadline: Deadline) -> paramiko.Transport:
    address, port = endpoint.address, endpoint.port
    if bastion is None:
        stream: Stream = dial(address, port, deadline)
    else:
        stream = bastion.tunnel(address, port, deadline.left())
    name = known_name(address, port, endpoint.alias)
    transport = greet(stream, address, port, deadline, known_types(endpoint.known, name))
    try:
        key = offered_key(transport)
        check_host_key(endpoint.known, address, port, key, alias=endpoint.alias)
    except BaseException:
        hang_up(transport)
        raise
    return transport


def _try_keys(
    transport: paramiko.Transport, endpoint: Endpoint, waiting: list[Candidate], tried: list[str]
) -> str:
    """Take keys off the list until one opens, none is left, or the server hangs up."""
    while waiting and transport.is_active():
        candidate = waiting.pop(0)
        tried.append(candidate.label)
        try:
            more = transport.auth_publickey(endpoint.user, candidate.key)
        except paramiko.BadAuthenticationType:
            waiting.clear()
            return "it takes no keys: set `PubkeyAuthentication yes` in its sshd_config"
        except BROKEN:
            continue
        if transport.is_authenticated():
            return ""
        if more:
            waiting.clear()
            return f"it took the key, but asks for more ({', '.join(more)}): dto only has keys"
    return ""


def _refusal(
    endpoint: Endpoint, candidates: Candidates, tried: tuple[str, ...], advice: str
) -> AuthenticationRefused:
    given = [one for one in candidates.left_out if one.path == str(endpoint.key)]
    if given and not advice:
        return given[0]
    if not advice and not tried:
        advice = "name a private key, or give one to the agent with ssh-add"
    elif not advice:
        advice = (
            f"is one of their public halves in authorized_keys of {endpoint.user} there, and is"
            f" {endpoint.user} the right user?"
        )
    for one in candidates.left_out:
        advice += f"; {one.path} {one.problem}"
    return AuthenticationRefused(endpoint.user, endpoint.address, endpoint.port, tried, advice)
