"""How an agent finds its coordinator: addresses to try, and the proof that it is the right one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dto.errors import DtoError
from dto.launch.wire import LINE_LIMIT, Channel, greet_coordinator
from dto.runs.paths import Attempt

INTERNAL_NAMES = ("DTO_COORDINATOR", "DTO_TOKEN", "DTO_SUBMISSION", "DTO_NODE_INDEX")
"""What an agent gets in its environment and a rank does not."""
_CONNECT_SECONDS = 3.0
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Address:
    """Where the coordinator may be, and what proves that it is ours."""

    candidates: Sequence[str]
    token: str
    submission: Path
    attempt: Attempt

    def to_env(self) -> dict[str, str]:
        return {
            "DTO_COORDINATOR": ",".join(self.candidates),
            "DTO_TOKEN": self.token,
            "DTO_SUBMISSION": str(self.submission),
            "DTO_RUN_DIR": str(self.attempt.path.parent),
            "DTO_ATTEMPT": str(self.attempt.number),
        }

    @staticmethod
    def from_env(env: Mapping[str, str]) -> Address:
        needed = (*INTERNAL_NAMES[:3], "DTO_RUN_DIR", "DTO_ATTEMPT")
        missing = [name for name in needed if not env.get(name)]
        if missing:
            raise DtoError(f"an agent is started by dto's coordinator, which sets {missing[0]}")
        attempt = Attempt(Path(env["DTO_RUN_DIR"]) / f"attempt-{env['DTO_ATTEMPT']}")
        candidates = env["DTO_COORDINATOR"].split(",")
        return Address(candidates, env["DTO_TOKEN"], Path(env["DTO_SUBMISSION"]), attempt)


async def dial(address: Address) -> Channel:
    """Return a proven connection to the coordinator.

    Raises:
        DtoError: none of the addresses led to it within a minute.
    """
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < give_up:
        for candidate in address.candidates:
            channel = await _try(candidate, address.token)
            if channel is not None:
                return channel
        await asyncio.sleep(0.5)
    tried = ", ".join(address.candidates)
    raise DtoError(f"no coordinator at {tried}: does a firewall close the ports between nodes?")


async def _try(candidate: str, token: str) -> Channel | None:
    """Connect by blocking calls: asyncio's name look-up would leave a thread, and we fork later."""
    host, _, port = candidate.rpartition(":")
    try:
        connection = socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS)
    except OSError:
        return None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader, writer = await asyncio.open_connection(sock=connection, limit=LINE_LIMIT)
    channel = Channel(reader, writer)
    if await greet_coordinator(channel, token):
        return channel
    channel.close()
    return None
