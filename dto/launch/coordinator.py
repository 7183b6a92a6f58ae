"""The coordinator of one attempt: gathers agents, runs generations of ranks, reaches the end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dto import __version__
from dto.launch.dial import Address
from dto.launch.environment import Job
from dto.launch.generation import Generation
from dto.launch.hub import Event, Hub
from dto.launch.key_value import KeyValueServer
from dto.launch.network import host_identity
from dto.launch.notes import Notes, Progress
from dto.launch.outcome import Ended, found_port_taken, judge, stopped_before_start
from dto.launch.placement import Node, check, place, ports_needed
from dto.launch.spec import Spec
from dto.launch.starters import Starter
from dto.launch.stopping import Order
from dto.launch.watch import StopWatch
from dto.runs.files import write_json
from dto.runs.paths import Attempt
from dto.runs.verdict import Verdict

_TICK_SECONDS = 0.5
_BEAT_SECONDS = 2.0
_PORT_TRIES = 3


@dataclass(frozen=True)
class Setting:
    """What an attempt works with; made by the job, which outlives it."""

    spec: Spec
    attempt: Attempt
    submission: Path
    starter: Starter
    expected_nodes: Sequence[str]
    bind: str
    has_terminal: bool
    addresses: Callable[[], list[str]]
    """More addresses of this node, best first."""


class Coordinator:
    """Runs in the job's one asyncio loop; all decisions are taken in one order of events."""

    def __init__(self, setting: Setting, notes: Notes, progress: Progress, watch: StopWatch):
        self._setting = setting
        self._spec = setting.spec
        self._notes = notes
        self._progress = progress
        self._watch = watch
        self._token = secrets.token_hex(32)
        self._hub = Hub(self._token, self._spec.heartbeat_timeout)
        self._kv = KeyValueServer(setting.bind)
        self._beaten = 0.0
        self._number = 0

    def order(self, order: Order) -> None:
        """Let a signal handler's order into the stream of events."""
        self._hub.put(Event("order", order=order))

    async def run(self) -> Ended:
        port = await self._hub.open(self._setting.bind)
        address = Address(
            [f"{host}:{port}" for host in self._setting.addresses()],
            self._token,
            self._setting.submission,
            self._setting.attempt,
        )
        self._note_state("STARTING")
        try:
            return await self._generations(address)
        finally:
            self._hub.forget_all()
            await self._setting.starter.stop()
            await self._hub.close()
            self._kv.close()

    async def _generations(self, address: Address) -> Ended:
        """Run generations until one is final: done, stopped, or failed too often."""
        retries, port_tries = self._spec.retries, _PORT_TRIES
        while True:
            if not self._hub.members:
                refused = await self._gather(address)
                if refused is not None:
                    return refused
            generation = await self._run_ranks()
            endings = list(generation.endings.values())
            ended = judge(
                endings, generation.lost_nodes, generation.order, generation.was_terminated
            )
            verdict = ended.verdict
            if verdict.kind in ("completed", "stopped", "cancelled") or ended.order is not None:
                return ended
            if found_port_taken(endings) and port_tries > 0:
                port_tries -= 1
            elif retries > 0:
                retries -= 1
            else:
                return ended
            self._number += 1
            self._progress.say(f"{verdict.cause}; starting all ranks again")
            self._note_state("RECOVERING")
            if generation.lost_nodes:
                self._hub.forget_all()
                await self._setting.starter.stop()

    async def _gather(self, address: Address) -> Ended | None:
        """Start the agents and wait for all of them; return why that came to nothing."""
        self._setting.starter.start(address.to_env())
        give_up = time.monotonic() + self._spec.start_timeout
        while len(self._hub.members) < self._spec.nodes:
            event = await self._next()
            if event is not None and event.order is not None:
                return stopped_before_start(event.order)
            if event is not None and event.kind == "joined":
                check(self._nodes({}), __version__)
            problem = self._setting.starter.problem()
            if problem and self._hub.is_quiet():
                return self._did_not_start(problem)
            if time.monotonic() > give_up:
                waited = f"no word within {self._spec.start_timeout:.0f} s"
                return self._did_not_start(waited)
        check(self._nodes({}), __version__)
        return None

    def _did_not_start(self, why: str) -> Ended:
        missing = [n for n in self._setting.expected_nodes if n not in self._hub.members]
        what = f"no agent on {', '.join(missing)}" if missing else "the agent did not start"
        return Ended(Verdict(False, 1, f"{what}: {why}", "start-failed"))

    async def _run_ranks(self) -> Generation:
        """Start one generation and see it to its end."""
        spec = self._spec
        self._kv.clear()
        generation = Generation(self._number, self._hub, spec.ranks_per_node)
        ports = await self._ask_ports()
        if ports is not None:
            self._start(generation, self._nodes(ports))
        while not generation.is_over:
            event = await self._next()
            generation.on_tick()
            if event is None:
                continue
            if event.order is not None:
                deadline, budget = self._watch.deadline, self._watch.budget
                if generation.on_order(event.order, deadline, budget):
                    self._note_order(event.order)
            elif event.kind == "lost" and event.member is not None:
                generation.on_lost(event.member)
            elif event.kind == "message" and event.member is not None:
                ending = generation.on_message(event.member, event.body)
                if ending is not None:
                    self._notes.write("ending", **{**asdict(ending), "t": ending.t})
        return generation

    def _start(self, generation: Generation, nodes: list[Node]) -> None:
        setting, spec = self._setting, self._spec
        job = Job(
            run_dir=str(setting.attempt.path.parent),
            attempt=setting.attempt.number,
            generation=self._number,
            backend=spec.backend,
            deadline=self._watch.deadline,
        )
        seats = place(nodes, spec, job, host_identity(), self._kv.port)
        for member, ranks in zip(self._hub.ordered(), seats, strict=True):
            member.channel.send(
                "start",
                generation=self._number,
                world=spec.world,
                ranks=ranks,
                terminal=setting.has_terminal,
            )
        generation.is_started = True
        self._note_state("RUNNING")

    async def _ask_ports(self) -> dict[str, list[int]] | None:
        """Ask every node for free ports; None where a node was lost meanwhile."""
        for index, member in enumerate(self._hub.ordered()):
            member.channel.send("ports", count=ports_needed(index, self._spec.ranks_per_node))
        answers: dict[str, list[int]] = {}
        later: list[Event] = []
        while len(answers) < self._spec.nodes and not any(e.kind == "lost" for e in later):
            event = await self._next()
            if event is None:
                continue
            if event.member is not None and event.body.get("type") == "ports":
                answers[event.member.node] = list(event.body["ports"])
            else:
                later.append(event)
        for event in later:
            self._hub.put(event)
        return answers if len(answers) == self._spec.nodes else None

    def _nodes(self, ports: dict[str, list[int]]) -> list[Node]:
        return [
            Node(
                member.node,
                member.facts,
                member.channel.own_address,
                member.channel.peer_address,
                ports.get(member.node, []),
            )
            for member in self._hub.ordered()
        ]

    async def _next(self) -> Event | None:
        """Return the next event, or None after a tick. Rows are taken here, whatever the phase."""
        event = await self._hub.next_event(_TICK_SECONDS)
        self._hub.check_heartbeats()
        order = self._watch.tick()
        if order is not None:
            self._hub.put(Event("order", order=order))
        if event is not None and event.kind == "joined" and event.member is not None:
            self._kv.allow(event.member.channel.peer_address)
        if event is not None and event.body.get("type") == "rows":
            self._notes.rows(event.body["rows"])
            self._progress.show(self._notes.metric)
            self._watch.last_save = self._notes.save_seconds
        if time.monotonic() - self._beaten > _BEAT_SECONDS:
            self._beaten = time.monotonic()
            alive = len(self._hub.members)
            self._notes.write("beat", nodes_alive=alive, deadline=self._watch.deadline)
        return event

    def _note_order(self, order: Order) -> None:
        setting = self._setting
        self._notes.write("request", reason=order.reason, source=order.source, kill=order.kill)
        self._note_state("STOPPING")
        may_requeue = self._spec.requeue and order.source != "person"
        then = "requeue" if may_requeue else "leave"
        write_json(setting.attempt.stop_file, {"reason": order.reason, "then": then})
        self._progress.say(f"{order.reason}: {'ending' if order.kill else 'stopping'}")

    def _note_state(self, word: str) -> None:
        nodes = [member.node for member in self._hub.ordered()]
        self._notes.state(word, self._number, self._spec.world, nodes)
