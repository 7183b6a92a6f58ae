"""An ssh connection up to the login: dialled, greeted, and hung up; nothing of it is printed."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence
from typing import TypeAlias

import paramiko

from dto.remote.errors import Unreachable
from dto.remote.host_keys import HostKey

Stream: TypeAlias = socket.socket | paramiko.Channel

KEEP_ALIVE_SECONDS = 15
_SILENCE_MILLISECONDS = 3 * KEEP_ALIVE_SECONDS * 1000  # unanswered for so long: the peer is gone

# What paramiko logs, tracebacks too, comes back to us as exceptions.
_log = logging.getLogger("paramiko")
_log.addHandler(logging.NullHandler())
_log.propagate = False


class Deadline:
    """A moment up to which something may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.moment = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then, never quite none: a timeout of 0 means something else to sockets."""
        return max(self.moment - time.monotonic(), 0.001)

    @property
    def is_past(self) -> bool:
        return time.monotonic() >= self.moment


def dial(address: str, port: int, deadline: Deadline) -> socket.socket:
    """A TCP connection to the first of the host's addresses that takes one."""
    try:
        places = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        reason = "its name is not known here: check the spelling, DNS or /etc/hosts"
        raise Unreachable(address, port, reason) from None
    reason = ""
    for family, kind, protocol, _, place in places:
        stream = socket.socket(family, kind, protocol)
        try:
            stream.settimeout(deadline.left())
            stream.connect(place)
        except OSError as error:
            stream.close()
            reason = reason or _why(error, port, deadline)
            continue
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MILLISECONDS)
        return stream
    raise Unreachable(address, port, reason)


def greet(
    stream: Stream, address: str, port: int, deadline: Deadline, key_types: Sequence[str] = ()
) -> paramiko.Transport:
    """Agree on keys with the ssh server at the other end; its host key is still to be checked."""
    transport = paramiko.Transport(stream)
    transport.banner_timeout = transport.handshake_timeout = deadline.left() + 1
    transport.auth_timeout = deadline.left()
    _ask_first_for(transport, key_types)
    try:
        transport.start_client(timeout=deadline.left())
        if deadline.is_past:
            raise TimeoutError
    except (paramiko.SSHException, EOFError, OSError) as error:
        hang_up(transport)
        raise Unreachable(address, port, _why(error, port, deadline)) from None
    except BaseException:
        hang_up(transport)
        raise
    transport.set_keepalive(KEEP_ALIVE_SECONDS)
    return transport


def offered_key(transport: paramiko.Transport) -> HostKey:
    """The host key that the server has proved to hold."""
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.get_base64())


def hang_up(transport: paramiko.Transport) -> None:
    """Close a connection, also a broken one, and its socket."""
    transport.close()
    transport.sock.close()
    if transport.is_alive():
        transport.join(2)


def _ask_first_for(transport: paramiko.Transport, key_types: Sequence[str]) -> None:
    options = transport.get_security_options()
    wanted: list[str] = []
    for key_type in key_types:
        wanted += ["rsa-sha2-512", "rsa-sha2-256"] if key_type == "ssh-rsa" else [key_type]
    first = [one for one in wanted if one in options.key_types]
    options.key_types = [*first, *(one for one in options.key_types if one not in first)]


def _why(error: Exception, port: int, deadline: Deadline) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"connection refused: does sshd run there, and at port {port}?"
    if deadline.is_past or isinstance(error, TimeoutError):
        return (
            f"no answer within {deadline.seconds:g} s: is the host up, and does a firewall let"
            f" port {port} through?"
        )
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return f"its ssh server is too old or too strict to agree on ciphers with ({error})"
    if isinstance(error, (EOFError, ConnectionResetError)) or "banner" in str(error):
        return "what answers is no ssh server, or it turns us away at once: see its sshd's log"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
