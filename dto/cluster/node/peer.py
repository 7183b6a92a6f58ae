"""What hosts ask each other outside of SLURM: one port, root on both sides by munge."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import socketserver
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dto.cluster.node import allreduce
from dto.cluster.node.errors import MungeError, UnreachableError
from dto.cluster.node.munge import seal, unseal

_LINE = 64 * 1024
_GREETING_SECONDS = 15.0
_REDUCE_SECONDS = 60.0

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Cipher:
    """Signs and reads words; munge, or in a test something else."""

    seal: Callable[[str], str] = seal
    unseal: Callable[[str], str] = unseal


MUNGE = Cipher()


class PeerServer(socketserver.ThreadingTCPServer):
    """Answers `hello`, `reduce` and what `answers` adds; refuses whoever is not root by munge."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], answers: Mapping[str, Answer], cipher: Cipher = MUNGE
    ) -> None:
        self.answers = answers
        self.cipher = cipher
        super().__init__(address, _Conversation)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up or lies is no news."""


class _Conversation(socketserver.BaseRequestHandler):
    server: PeerServer

    def handle(self) -> None:
        link: socket.socket = self.request
        link.settimeout(_GREETING_SECONDS)
        nonce = secrets.token_hex(16)
        _say(link, {"nonce": nonce})
        asked = json.loads(self.server.cipher.unseal(_hear(link)["sealed"]))
        if asked["nonce"] != nonce:
            return
        answer = dict(self._answer(asked))
        answer["nonce"], answer["time"] = asked["mine"], time.time()
        _say(link, {"sealed": self.server.cipher.seal(json.dumps(answer))})
        if asked["what"] == "reduce" and "refused" not in answer:
            link.settimeout(_REDUCE_SECONDS)
            allreduce.measure(link, nonce, is_first=False)

    def _answer(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        what = str(asked["what"])
        if what in ("hello", "reduce") and what not in self.server.answers:
            return {}
        if what not in self.server.answers:
            return {"refused": f"{what} is not known here"}
        return self.server.answers[what](asked)


def ask(
    address: str, port: int, what: str, cipher: Cipher = MUNGE, **facts: Any
) -> dict[str, Any]:
    """Ask one thing; the answer's `skew` is how far its clock is ahead of ours, in seconds.

    Raises:
        UnreachableError: nobody answers there.
        MungeError: the two sides do not have the same key.
    """
    with _talk(address, port, what, cipher, facts) as (_, answer, _):
        return answer


def reduce_with(address: str, port: int, cipher: Cipher = MUNGE) -> allreduce.Reduced:
    """All-reduce with another host."""
    with _talk(address, port, "reduce", cipher, {}) as (link, answer, nonce):
        if "refused" in answer:
            raise UnreachableError(f"{address} refuses: {answer['refused']}")
        link.settimeout(_REDUCE_SECONDS)
        try:
            return allreduce.measure(link, nonce, is_first=True)
        except OSError as error:
            raise UnreachableError(f"the all-reduce with {address} broke off: {error}") from None


@contextlib.contextmanager
def _talk(
    address: str, port: int, what: str, cipher: Cipher, facts: Mapping[str, Any]
) -> Iterator[tuple[socket.socket, dict[str, Any], str]]:
    try:
        link = socket.create_connection((address, port), timeout=_GREETING_SECONDS)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreachableError(f"{address} port {port} does not answer: {reason}") from None
    with link:
        try:
            nonce = str(_hear(link)["nonce"])
            mine, began = secrets.token_hex(16), time.time()
            words = {**facts, "what": what, "nonce": nonce, "mine": mine}
            _say(link, {"sealed": cipher.seal(json.dumps(words))})
            answer = json.loads(cipher.unseal(_hear(link)["sealed"]))
        except (OSError, ValueError, KeyError) as error:
            raise MungeError(
                f"{address} hung up ({error or 'no words'}): is the munge key there the same, "
                "and the clock?"
            ) from None
        if answer.get("nonce") != mine:
            raise MungeError(f"{address} answered somebody else's question")
        answer["skew"] = answer["time"] - (began + time.time()) / 2
        yield link, answer, nonce


def _say(link: socket.socket, words: Mapping[str, Any]) -> None:
    link.sendall(json.dumps(words).encode() + b"\n")


def _hear(link: socket.socket) -> dict[str, Any]:
    """Read one line, byte by byte at its end: what follows it belongs to the all-reduce."""
    line = bytearray()
    while not line.endswith(b"\n"):
        seen = link.recv(4096, socket.MSG_PEEK)
        if not seen or len(line) > _LINE:
            raise ConnectionError("no line came")
        end = seen.find(b"\n")
        line += link.recv(end + 1 if end >= 0 else len(seen))
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("no object came")
    return found
