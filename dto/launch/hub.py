"""The coordinator's side of the wire: proven agents, and one inbox for everything that happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dto.launch.stopping import Order
from dto.launch.wire import LINE_LIMIT, Channel, greet_agent

_TICK_LATE_SECONDS = 5.0


@dataclass
class Member:
    """One agent, after its hello."""

    channel: Channel
    node: str
    index: int
    facts: Mapping[str, Any]
    last_seen: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Event:
    """Something that happened: who said it, or what a person or SLURM wants."""

    kind: Literal["joined", "message", "lost", "order"]
    member: Member | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    order: Order | None = None


class Hub:
    """Listens for agents until closed. Events come out of `next_event`, one at a time."""

    def __init__(self, token: str, heartbeat_timeout: float) -> None:
        self._token = token
        self._timeout = heartbeat_timeout
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._server: asyncio.AbstractServer | None = None
        self._checked = time.monotonic()
        self._channels: set[Channel] = set()
        self.members: dict[str, Member] = {}

    async def open(self, host: str) -> int:
        self._server = await asyncio.start_server(
            self._serve, host, 0, limit=LINE_LIMIT, backlog=1024
        )
        return int(self._server.sockets[0].getsockname()[1])

    def put(self, event: Event) -> None:
        self._inbox.put_nowait(event)

    async def next_event(self, timeout: float) -> Event | None:
        try:
            return await asyncio.wait_for(self._inbox.get(), timeout)
        except asyncio.TimeoutError:
            return None

    def is_quiet(self) -> bool:
        """Nothing waits to be taken."""
        return self._inbox.empty()

    def ordered(self) -> list[Member]:
        """Return the members in the order of their nodes."""
        return sorted(self.members.values(), key=lambda member: (member.index, member.node))

    def broadcast(self, kind: str, **fields: Any) -> None:
        for member in self.members.values():
            member.channel.send(kind, **fields)

    def check_heartbeats(self) -> None:
        """Drop members that fell silent; forgive all where it was we who slept (SIGSTOP)."""
        now = time.monotonic()
        slept = now - self._checked > _TICK_LATE_SECONDS
        self._checked = now
        for member in list(self.members.values()):
            if slept:
                member.last_seen = now
            elif now - member.last_seen > self._timeout:
                self._lose(member)

    def forget_all(self) -> None:
        """Let all agents go; what they still say is of no interest."""
        self.broadcast("finish")
        self.members.clear()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for channel in self._channels:
            channel.close()
        while self._channels:  # each connection's task takes its own out
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        self._channels.add(channel)
        try:
            member = await self._introduce(channel)
            if member is None:
                return
            while (message := await channel.receive()) is not None:
                member.last_seen = time.monotonic()
                if message["type"] == "rows":
                    channel.send("ack")
                self.put(Event("message", member, message))
            self._lose(member)
        finally:
            self._channels.discard(channel)
            channel.close()

    async def _introduce(self, channel: Channel) -> Member | None:
        if not await greet_agent(channel, self._token):
            return None
        hello = await channel.receive()
        if hello is None or hello["type"] != "hello":
            return None
        member = Member(channel, str(hello["node"]), int(hello["index"]), hello)
        if member.node in self.members:  # a second agent of a node can only be a mistake
            return None
        self.members[member.node] = member
        self.put(Event("joined", member))
        return member

    def _lose(self, member: Member) -> None:
        if self.members.get(member.node) is member:
            del self.members[member.node]
            member.channel.close()
            self.put(Event("lost", member))
