"""JSON lines over TCP between coordinator and agents, after both have proved the token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any

LINE_LIMIT = 64 * 1024 * 1024
_GREETING_SECONDS = 10.0


class Channel:
    """One connection. `receive` returns None once the other side has gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def own_address(self) -> str:
        return str(self._writer.get_extra_info("sockname")[0])

    @property
    def peer_address(self) -> str:
        return str(self._writer.get_extra_info("peername")[0])

    @property
    def backlog(self) -> int:
        """Bytes that the other side has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    def send(self, kind: str, **fields: Any) -> None:
        """Queue a message; a connection that has gone swallows it (`receive` tells)."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"type": kind, **fields}).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        try:
            line = await self._reader.readline()
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):  # reset, over the limit, or not our protocol
            return None
        return message if isinstance(message, dict) and "type" in message else None

    async def drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError:  # gone: nobody is left to read it
            return

    def close(self) -> None:
        self._writer.close()


async def greet_agent(channel: Channel, token: str) -> bool:
    """Prove the token to each other, coordinator's side. The token itself never travels."""
    nonce = secrets.token_hex(16)
    channel.send("challenge", nonce=nonce)
    answer = await _hear(channel, "answer")
    if answer is None or not _is_proof(answer.get("proof"), token, "agent", nonce):
        return False
    channel.send("welcome", proof=_proof(token, "coordinator", str(answer.get("nonce"))))
    return True


async def greet_coordinator(channel: Channel, token: str) -> bool:
    """The agent's side: whatever else listens at a candidate address is found out here."""
    challenge = await _hear(channel, "challenge")
    if challenge is None:
        return False
    nonce = secrets.token_hex(16)
    proof = _proof(token, "agent", str(challenge.get("nonce")))
    channel.send("answer", proof=proof, nonce=nonce)
    welcome = await _hear(channel, "welcome")
    return welcome is not None and _is_proof(welcome.get("proof"), token, "coordinator", nonce)


async def _hear(channel: Channel, kind: str) -> Mapping[str, Any] | None:
    try:
        message = await asyncio.wait_for(channel.receive(), _GREETING_SECONDS)
    except asyncio.TimeoutError:
        return None
    return message if message is not None and message["type"] == kind else None


def _proof(token: str, side: str, nonce: str) -> str:
    return hmac.new(token.encode(), f"{side}:{nonce}".encode(), hashlib.sha256).hexdigest()


def _is_proof(given: object, token: str, side: str, nonce: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(
        given.encode(), _proof(token, side, nonce).encode()
    )
