"""The agent of one node: starts ranks when told, watches them, and tells how they ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from dto.launch import facts
from dto.launch.dial import INTERNAL_NAMES, Address, dial
from dto.launch.environment import DEFAULTS
from dto.launch.guardian import Guardian
from dto.launch.network import free_ports, interface_of
from dto.launch.output import MOST_RANKS, Console, LogTail
from dto.launch.rank_links import RankLinks
from dto.launch.ranks import Exit, Order, Rank
from dto.launch.spec import Spec, read_spec
from dto.launch.traces import find_cause, one_line, read_tail
from dto.launch.wire import Channel
from dto.runs.files import Journal
from dto.runs.paths import Attempt
from dto.runs.verdict import Ending

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
_CONSOLE_SECONDS = 0.15
_ROWS_PER_BEAT = 5_000
_LATE_SECONDS = 5.0
_LARGEST_BACKLOG = 8 * 1024 * 1024


class Agent:
    """Lives as long as its connection to the coordinator."""

    def __init__(self, channel: Channel, spec: Spec, attempt: Attempt, node: str) -> None:
        self._channel = channel
        self._spec = spec
        self._attempt = attempt
        self._node = node
        self._links = RankLinks(lambda rank, cooperative: self._hello(rank, cooperative))
        self._ranks: dict[int, Rank] = {}
        self._tails: dict[int, LogTail] = {}
        self._reports: set[asyncio.Task[None]] = set()
        self._console = Console(sys.stdout.buffer, sys.stdout.isatty())
        self._guardian = Guardian()
        self._generation = 0

    async def serve(self) -> bool:
        """Do what the coordinator says until it says `finish`; False if it was lost."""
        await self._links.open()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        helpers = [asyncio.create_task(self._beat()), asyncio.create_task(self._show())]
        try:
            return await self._obey()
        finally:
            for helper in helpers:
                helper.cancel()
            self._kill()
            self._links.close()
            self._guardian.close()

    async def _obey(self) -> bool:
        patience = self._spec.heartbeat_timeout
        while True:
            began = time.monotonic()
            try:
                message = await asyncio.wait_for(self._channel.receive(), patience)
            except asyncio.TimeoutError:
                if time.monotonic() - began > patience + _LATE_SECONDS:
                    continue  # it was we who slept (SIGSTOP): what was said meanwhile is unread
                message = None
            if message is None:
                log.warning("the coordinator is lost")
                self._spill()
                return False
            if message["type"] == "finish":
                await asyncio.gather(*self._reports)
                return True
            self._handle(message)

    def _handle(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "ports":
            self._channel.send("ports", ports=free_ports(int(message["count"])))
        elif kind == "start":
            self._start(message)
        elif kind == "stop":
            self._links.stop(str(message["reason"]), message["deadline"])
        elif kind == "terminate":
            caught = [number for number, rank in self._ranks.items() if rank.terminate()]
            self._channel.send("terminated", generation=self._generation, caught=caught)
        elif kind == "kill":
            self._kill()

    def _start(self, message: Mapping[str, Any]) -> None:
        self._generation = int(message["generation"])
        self._links.begin_generation()
        base = {k: v for k, v in os.environ.items() if k not in INTERNAL_NAMES}
        environment = {**base, **self._spec.env, "DTO_SOCKET": self._links.name}
        if environment.get("PYTHONPATH"):
            copy = self._attempt.path.parent / "code"
            search = self._spec.search_path(environment["PYTHONPATH"], copy)
            environment["PYTHONPATH"] = search
        for entry in message["ranks"]:
            number = int(entry["rank"])
            path = None if message["terminal"] else self._log_path(number, int(message["world"]))
            order = Order(number, int(entry["local_rank"]), entry["env"], entry["cpus"], path)
            try:
                rank = Rank(order, self._spec.command(), self._spec.cwd, environment)
            except (OSError, SubprocessError) as error:
                self._could_not_start(number, error)
                continue
            log.info("g%d: rank %d is pid %d", self._generation, number, rank.pid)
            self._ranks[number] = rank
            if not rank.has_terminal:
                self._guardian.watch(rank.pid)
            if path is not None and (message["world"] <= MOST_RANKS or number == 0):
                self._tails[number] = LogTail(path, rank.log_start)

    def _log_path(self, rank: int, world: int) -> Path:
        if world <= MOST_RANKS or rank == 0:
            return self._attempt.rank_log(rank, self._generation)
        return self._attempt.agent_log(self._node)

    def _hello(self, rank: int, cooperative: bool) -> None:
        self._channel.send(
            "rank-hello", generation=self._generation, rank=rank, cooperative=cooperative
        )

    def _reap(self) -> None:
        for number, rank in list(self._ranks.items()):
            ended = rank.reap()
            if ended is not None:
                del self._ranks[number]
                self._guardian.forget(rank.pid)
                report = asyncio.create_task(self._report(rank, ended))
                self._reports.add(report)
                report.add_done_callback(self._reports.discard)

    async def _report(self, rank: Rank, ended: Exit) -> None:
        number = rank.order.rank
        await self._links.drained(number, timeout=1.0)
        tail = self._tails.pop(number, None)
        if tail is not None:
            self._console.write(number, tail.poll(is_last=True))
        ending = self._ending(rank, ended)
        log.info("g%d: rank %d ended: %s", ending.generation, number, ending)
        self._send_rows()
        self._channel.send("ended", **asdict(ending))

    def _ending(self, rank: Rank, ended: Exit) -> Ending:
        number = rank.order.rank
        error = self._links.errors.get(number)
        if error is not None:
            error_type = str(error.get("type", ""))
            message = one_line(str(error.get("message", "")))
        elif ended.code not in (0, 85) and rank.order.log is not None:
            tail = read_tail(rank.order.log, rank.log_start)
            error_type, message = find_cause(tail, ended.code)
        else:
            error_type, message = "", ""
        return Ending(
            rank=number,
            node=self._node,
            generation=self._generation,
            code=ended.code,
            signal=ended.signal,
            t=ended.t,
            error_type=error_type,
            message=message,
            error_t=float(error["t"]) if error is not None else None,
            last_step=self._links.last_steps.get(number),
            killed=rank.killed and ended.signal == signal.SIGKILL,
        )

    def _could_not_start(self, rank: int, error: Exception) -> None:
        ending = Ending(
            rank=rank,
            node=self._node,
            generation=self._generation,
            code=127,
            signal=None,
            t=time.time(),
            error_type=type(error).__name__,
            message=str(error),
        )
        self._channel.send("ended", **asdict(ending))

    def _kill(self) -> None:
        for rank in self._ranks.values():
            rank.kill()

    async def _beat(self) -> None:
        while True:
            self._send_rows()
            await asyncio.sleep(BEAT_SECONDS)

    def _send_rows(self) -> None:
        """Send what ranks posted; with a coordinator that is behind, only the heartbeat."""
        behind = self._channel.backlog > _LARGEST_BACKLOG
        self._channel.send("rows", rows=[] if behind else self._links.take(_ROWS_PER_BEAT))

    async def _show(self) -> None:
        while True:
            for number, tail in self._tails.items():
                self._console.write(number, tail.poll())
            await asyncio.sleep(_CONSOLE_SECONDS)

    def _spill(self) -> None:
        """Keep on the shared filesystem what can no longer be delivered."""
        rows = self._links.take(sys.maxsize)
        if rows:
            journal = Journal(self._attempt.spill(self._node))
            journal.append_many(rows)
            journal.close()


async def run_agent(env: Mapping[str, str]) -> int:
    """Find the coordinator, introduce this node, serve. Returns the exit code."""
    address = Address.from_env(env)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the coordinator decides
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    channel = await dial(address)
    node = facts.node_name(env)
    if not address.submission.is_dir():
        where = f"cannot see {address.submission}: put --run-root on a shared filesystem"
        channel.send("hello", node=node, index=facts.node_index(env), problem=where)
        await channel.drain()
        return 1
    spec = read_spec(address.submission)
    logging.basicConfig(
        filename=address.attempt.agent_log(node),
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    given = {**env, **spec.env}
    channel.send(
        "hello",
        **facts.gather(env, spec),
        given={name: given[name] for name in DEFAULTS if given.get(name)},
        interface=interface_of(channel.own_address),
    )
    was_finished = await Agent(channel, spec, address.attempt, node).serve()
    await channel.drain()
    channel.close()
    return 0 if was_finished else 1
