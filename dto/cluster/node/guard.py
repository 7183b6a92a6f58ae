"""The cost guard: counts what machines cost, and acts before more is used than is allowed.

A service of the head. At 80 % it tells people; at 100 % it drains the nodes, asks jobs to save and
switches the nodes off from outside; once the budget is raised it brings them back.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dto.cluster.node import gone, ledger, members, peer, probes, reality, retire, slurm, thrift
from dto.cluster.node.commands import run
from dto.cluster.node.errors import NodeError
from dto.cluster.node.facts import Node
from dto.cluster.node.head import REMOVED, listens
from dto.cluster.node.journal import Journal, warn_people
from dto.cluster.node.members import Guarded, Member
from dto.cluster.node.retire import Occupant
from dto.cluster.node.thrift import Action, Standing
from dto.cluster.node.trouble import Trouble

_log = logging.getLogger("dto.guard")
PROGRAM = Path(__file__).parents[3]
"""node.pyz, or a checkout."""
_EVERY_SECONDS = 5.0
_SEEN_SECONDS = 600.0
_SAVE_SECONDS = 600.0
"""So long jobs have to save; then they are queued again, and those that cannot be end."""
_POWER_SECONDS = 120.0
_POWER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
_CAUSES = {"budget": "it is used up", "idle": "no job for too long"}


class Guard:
    """What is remembered between two turns; everything that must last is in the journal."""

    def __init__(self, node: Node, guarded: Guarded, journal: Journal) -> None:
        self._node, self._guarded, self._journal = node, guarded, journal
        self._began = time.time()
        self._idle: dict[str, float] = {}
        self._saving = Saving()
        self._exhausted_at: float | None = None
        self._failed: dict[str, float] = {}

    def turn(self) -> None:
        """Look, write down, and do what is due."""
        now = time.time()
        answers = look(self._guarded.members, self._node.peer_port)
        self._write_down(now, answers)
        level = self._note_level(now)
        states = self._states(level, now)
        self._idle = thrift.idle_since(self._idle, states, now)
        standings = [self._standing(member, answers, states, now)
                     for member in self._guarded.nodes
                     if not (REMOVED / member.name).is_file()]  # fmt: skip
        if level == "exhausted":
            # Drain first: then what leaves a node finds no other place.
            self._act_on(thrift.decide(level, standings, self._guarded, [], now), states)
            if states:
                self._saving.step(now)
        else:
            self._saving, self._exhausted_at = Saving(), None
            self._act_on(thrift.decide(level, standings, self._guarded, wishes(), now), states)

    def _states(self, level: str, now: float) -> dict[str, slurm.NodeState]:
        """Return SLURM's nodes; none once there is no budget, and jobs had their time to save."""
        if level == "exhausted":
            self._exhausted_at = self._exhausted_at or now
            if now - self._exhausted_at > _SAVE_SECONDS + 60:
                return {}
        return {state.name: state for state in slurm.nodes()}

    def _act_on(self, actions: list[Action], states: Mapping[str, slurm.NodeState]) -> None:
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda action: self._act(action, states.get(action.name)), actions))

    def _standing(
        self, member: Member, answers: Mapping[str, bool],
        states: Mapping[str, slurm.NodeState], now: float,
    ) -> Standing:  # fmt: skip
        account = self._journal.ledger.account(member.name)
        idle = now - self._idle.get(member.name, now)
        return Standing(member, account, answers[member.name], states.get(member.name), idle)

    def _write_down(self, now: float, answers: Mapping[str, bool]) -> None:
        moment = reality.Moment(now, self._began, answers, self._guarded.is_cloud)
        accounts = self._journal.ledger
        for row in reality.rows_to_add(accounts, self._guarded.members, moment, self._boot):
            self._journal.add(row)
            _log.info("%s is %s: %s", row["node"], row["event"], row["cause"])
        names = sorted(name for name, is_there in answers.items() if is_there)
        is_due = now - self._journal.seen_at >= _SEEN_SECONDS
        self._journal.see(now, names, is_written=is_due)

    def _boot(self, member: Member) -> float:
        """Return since when a machine has been up; now, where it cannot be asked."""
        if member.is_head:
            return time.time() - probes.up_seconds()
        try:
            told = peer.ask(member.address, self._node.peer_port, "hello", name=self._node.name)
            return time.time() - float(told["up"])
        except (NodeError, KeyError, ValueError):
            return time.time()

    def _note_level(self, now: float) -> str:
        used = ledger.used(self._journal.ledger, now, self._guarded.mere_head)
        share = used.share(self._guarded.budget)
        level = ledger.level(share)
        if level != self._journal.ledger.state:
            event = "raised" if level == "ok" else level
            amounts = {"amount": round(used.amount, 4), "hours": round(used.node_hours, 4)}
            self._journal.add({"t": round(now, 3), "event": event, **amounts})
            words = budget_words(level, used, self._guarded)
            _log.warning("%s", words)
            warn_people(self._node, words if level != "ok" else "")
        return level

    def _act(self, action: Action, state: slurm.NodeState | None) -> None:
        member = next(m for m in self._guarded.members if m.name == action.name)
        try:
            if action.kind in ("drain", "rest"):
                slurm.drain(action.name, f"{slurm.OURS} {_reason(action.cause)}")
            if action.kind == "resume" and not listens(member.address):
                return  # SLURM has not noticed yet that it was off
            if action.kind == "resume":
                slurm.resume(action.name)
            if action.kind == "forget" and state is not None:
                gone.forget(state)
            if action.kind == "rest" and not thrift.Standing(
                member, ledger.Account(), True, slurm.node(action.name)
            ).is_empty:
                slurm.resume(action.name)  # a job was quicker
                return
            if action.kind in ("off", "rest"):
                self._power(member, "off", action.cause)
            if action.kind == "on":
                self._power(member, "on", action.cause)
            if action.kind != "off":
                _log.info("%s: %s (%s)", action.name, action.kind, action.cause)
        except NodeError as error:
            _log.warning("%s: %s", action.name, error)

    def _power(self, member: Member, way: str, cause: str) -> None:
        """Switch a machine from outside; a command that fails is tried again later."""
        command = self._guarded.power_on if way == "on" else self._guarded.power_off
        if time.time() - self._failed.get(member.name, 0.0) < 60 or command is None:
            return
        self._failed[member.name] = time.time()
        env = {"PATH": _POWER_PATH, "HOME": "/root"}
        done = run(*members.power_argv(command, member), timeout=_POWER_SECONDS, env=env)
        if done.code:
            raise NodeError(f"power.{way} failed: {done.said}")
        del self._failed[member.name]
        event = "start" if way == "on" else "off"
        self._journal.add({"t": round(time.time(), 3), "event": event, "node": member.name,
                           "cause": cause})  # fmt: skip
        _log.info("%s was switched %s (%s)", member.name, way, cause)


class Saving:
    """Jobs that were asked to save; those that stay are queued again once, after a while."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._asked: set[str] = set()
        self._queued: set[str] = set()

    def step(self, now: float, find: Callable[[], list[Occupant]] = retire.occupants) -> None:
        self._began = self._began or now
        jobs = find()
        new = [job for job in jobs if job.job_id not in self._asked]
        self._asked.update(retire.ask_to_save(new))
        if now - self._began > _SAVE_SECONDS:
            stuck = [job for job in jobs if job.job_id not in self._queued]
            self._queued.update(retire.queue_again(stuck))


def _reason(cause: str) -> str:
    return f"{cause}: {_CAUSES[cause]}"


def look(machines: tuple[Member, ...], port: int) -> dict[str, bool]:
    """Return which machines are on: those that take or refuse a connection."""
    with ThreadPoolExecutor(max_workers=32) as pool:
        found = pool.map(lambda m: m.is_head or probes.is_on(m.address, (port, 22)), machines)
        return {m.name: is_there for m, is_there in zip(machines, found, strict=True)}


def wishes() -> list[thrift.Wish]:
    argv = ("squeue", "--noheader", "--states=PENDING", "--format=%P|%D|%r")
    done = run(*argv, timeout=30, env=slurm.environment())
    if done.code:
        raise NodeError(f"squeue: {done.said}")
    return thrift.parse_wishes(done.out)


def budget_words(level: str, used: ledger.Used, guarded: Guarded) -> str:
    budget = guarded.budget
    spent = [f"{used.amount:.2f} of {budget.amount:.2f} {guarded.currency}"
             ] if budget.amount is not None else []  # fmt: skip
    spent += [f"{used.node_hours:.1f} of {budget.hours:g} node-hours"] if budget.hours else []
    words = f"budget of the cluster: {', '.join(spent) or 'no limit'} used"
    if level == "warned":
        return f"{words}; at 100 % jobs save and wait, and the nodes are switched off"
    if level == "exhausted":
        return f"{words}: jobs save and wait, nodes go off until the budget is raised"
    return words


def report(node: Node, guarded: Guarded) -> dict[str, Any]:
    """Return what has been used until now."""
    now, accounts = time.time(), ledger.read_ledger(Journal.rows(journal_path(node)))
    used = ledger.used(accounts, now, guarded.mere_head)
    since = accounts.began
    budget = guarded.budget
    return {
        "since": None if since is None else _iso(since),
        "currency": guarded.currency,
        "node_hours": {name: round(hours, 4) for name, hours in sorted(used.hours.items())},
        "hourly": {member.name: member.price for member in guarded.members},
        "amount": round(used.amount, 4),
        "unknown": list(used.unknown),
        "budget": {"amount": budget.amount, "hours": budget.hours,
                   "idle_minutes": budget.idle_minutes},
        "state": ledger.level(used.share(budget)),
        "on": sorted(name for name, one in accounts.accounts.items() if one.is_on),
        "off": reality.switched_off(accounts, guarded.members),
    }  # fmt: skip


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="seconds")


def journal_path(node: Node) -> Path:
    return Path(node.shared) / "dto/cost/journal.jsonl"


def serve(node: Node) -> None:
    """Run until this program is another one; systemd then starts that."""
    began = PROGRAM.stat().st_mtime_ns
    guard = Guard(node, members.read_guarded(), Journal(journal_path(node)))
    trouble = Trouble(_log.warning, NodeError, OSError)
    while PROGRAM.stat().st_mtime_ns == began:
        with trouble:
            guard.turn()
        time.sleep(_EVERY_SECONDS)


def say(node: Node) -> str:
    return json.dumps(report(node, members.read_guarded()))


def release() -> str:
    """Take back the guard's own drains; for a cluster that has a guard no more."""
    held = [one.name for one in slurm.nodes()
            if one.is_drained and one.has_reason(*reality.OURS)]  # fmt: skip
    for name in held:
        slurm.resume(name)
    return f"take jobs again: {' '.join(held) or 'none'}"
