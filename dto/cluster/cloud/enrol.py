"""The head's service that brings in what its cloud starts, and lets go of what it takes away.

It does what an operator does with `dto cluster join`: Ansible from an environment of its own, the
head's own ssh key, and the host keys that the machines have published.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dto.cluster.cloud import aws
from dto.cluster.cloud.running import Running, is_enrolled, newcomers, parting, seen_from
from dto.cluster.inventory import DtoCluster
from dto.cluster.inventory_hosts import Node
from dto.cluster.node.trouble import Trouble
from dto.cluster.outcome import Outcome
from dto.cluster.progress import Progress
from dto.cluster.provision import Options, Runner
from dto.cluster.session import Session, Terminal, with_changes
from dto.cluster.sources import load_record
from dto.cluster.state import HEAD_RECORD, cluster_state
from dto.cluster.status import NodeStatus, ask
from dto.errors import ClusterError, ConfigError, DtoError, UsageError
from dto.remote.host import Host
from dto.remote.local import LocalHost

HEAD_KEY = Path("/etc/dto/head-key")
_REMOVED = Path("/etc/dto/removed")
_LOCK = Path("/run/dto/enrol.lock")
_PAUSE = Path("/run/dto/setup-began")
"""Somebody sets the cluster up: what we would do now, that does as well."""
_PAUSE_SECONDS = 3600.0
_EVERY_SECONDS = 15.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 30.0, 900.0


def serve(terminal: Terminal, env: Mapping[str, str]) -> None:
    """Run for ever; a trouble is told once, and tried again.

    Raises:
        UsageError: this machine heads a cluster, but not one whose machines a cloud starts.
    """
    if HEAD_RECORD.exists() and not is_enrolled(record := load_record(HEAD_RECORD)):
        raise UsageError(f"no cloud starts machines of cluster {record.name}: nothing to enrol")
    enroller, trouble = Enroller(terminal, env), Trouble(terminal.warn, DtoError, OSError)
    while True:
        with trouble:
            enroller.turn(time.monotonic())
        time.sleep(_EVERY_SECONDS)


@dataclass
class _Tries:
    count: int = 0
    due: float = 0.0

    def failed(self, now: float) -> float:
        """Note a failure; return the seconds until the next try."""
        wait: float = min(_FIRST_RETRY_SECONDS * 2**self.count, _LAST_RETRY_SECONDS)
        self.count, self.due = self.count + 1, now + wait
        return wait


class Enroller:
    """What is remembered between two turns; what must last is in the record and in SLURM."""

    def __init__(self, terminal: Terminal, env: Mapping[str, str]) -> None:
        self._terminal, self._env = terminal, env
        self._tries: dict[str, _Tries] = {}
        self._missing: set[str] = set()
        self._waiting: tuple[str, ...] = ()
        self._is_published = False

    def turn(self, now: float) -> None:
        """Look at the cloud and at SLURM, and bring both together."""
        if not HEAD_RECORD.exists():
            self._tell((f"there is no {HEAD_RECORD} yet, which the end of a setup leaves",))
            return
        record = load_record(HEAD_RECORD).seen_from_head()
        self._publish(record)
        with LocalHost(record.head.name) as head:
            running = seen_from(head, record)
            in_slurm = {node.name: node for node in ask(head).nodes}
            self._let_go(running, in_slurm, head)
        self._tell(running.waiting)
        new = newcomers(record, running, frozenset(in_slurm), removed_by_hand())
        if names := self._due(new, now):
            with alone() as is_alone:
                if is_alone:
                    self._bring_in(running, names)

    def _publish(self, record: DtoCluster) -> None:
        """Let new nodes know our key; on Nebius dto-join does, which they all run."""
        if record.provider != "aws" or self._is_published:
            return
        public = HEAD_KEY.with_suffix(".pub")
        if not public.is_file():
            raise ClusterError(f"this head has no {public}: run cluster-setup.sh for it again")
        if aws.publish_head_key(record, public.read_text().strip()):
            self._terminal.say("the head's public key is published")
        self._is_published = True

    def _tell(self, waiting: tuple[str, ...]) -> None:
        for words in waiting if waiting != self._waiting else ():
            self._terminal.say(f"waiting: {words}")
        self._waiting = waiting

    def _due(self, new: Sequence[str], now: float) -> list[str]:
        """Return all that were never tried, else one that failed before: it may fail the others."""
        self._tries = {name: self._tries.get(name, _Tries()) for name in new}
        fresh = [name for name in new if not self._tries[name].count]
        again = [name for name in new if self._tries[name].count and self._tries[name].due <= now]
        return fresh or again[:1]

    def _bring_in(self, running: Running, names: list[str]) -> None:
        self._terminal.say(f"bringing in {', '.join(names)}")
        began = time.monotonic()
        try:
            failed = self._provision(running, names)
        except DtoError as error:
            failed = dict.fromkeys(names, str(error))
        joined = [name for name in names if name not in failed]
        if joined:
            keep(joined, running.record)
            seconds = time.monotonic() - began
            self._terminal.say(f"{', '.join(joined)} joined in {seconds:.0f} s")
        for name, reason in failed.items():
            wait = self._tries[name].failed(time.monotonic())
            self._terminal.warn(f"{name} did not join: {reason}; tried again in {wait:.0f} s")

    def _provision(self, running: Running, names: Sequence[str]) -> dict[str, str]:
        """Set machines up; return which of them failed, and why."""
        state = cluster_state(running.record.name, self._env)
        with state.lock("enrolment") as lock:
            session = Session(state, as_operator(running.record), self._terminal, is_head=True)
            head = session.record.head
            nodes = [session.record.node(name) for name in names]
            session, found = session.look(accepts=False, only=(head, *nodes))
            here = [name for name in names if name in found.probes]
            if not here:
                return found.unreachable
            runner = Runner(session, Options(), Progress(self._terminal.out), [lock])
            runner.prepare()
            outcome = runner.run(
                "playbooks/add-node.yml",
                limit=[head.name, *here],
                variables={"dto_is_enrolling": True},
            )
        return {**found.unreachable, **failures_of(outcome, head.name, here)}

    def _let_go(self, running: Running, in_slurm: Mapping[str, NodeStatus], head: Host) -> None:
        """Tell SLURM of machines that are no more, and drop those that it has forgotten.

        Two looks must agree, for the cloud's lists lag behind what it does.
        """
        missing = {node.name for node in running.gone}
        taken = {node.address for node in running.nodes.values()}
        for node in running.gone:
            if node.name not in self._missing:
                continue
            step = parting(in_slurm.get(node.name), has_heir=node.address in taken)
            if step == "drop":
                keep_without(node.name)
                self._terminal.say(f"{node.name} ({node.instance_id}) is gone")
            if step in ("mark", "delete"):
                self._terminal.say(f"the cloud has taken {node.name} ({node.instance_id})")
                _mark_gone(head, node)
            if step == "delete":
                _change(head, "delete", f"nodename={node.name}")
        self._missing = missing


def failures_of(outcome: Outcome, head: str, names: Sequence[str]) -> dict[str, str]:
    """Return which of these machines were not set up, and why.

    Where one cannot become a node at all, or the head itself fails, none was.
    """
    failures = outcome.real_failures()
    told = {one.host: str(one) for one in failures} | outcome.unreachable
    refused = next((str(one) for one in failures if one.is_validate), None)
    for_all = told.get(head) or refused
    if for_all is not None:
        return {name: told.get(name, for_all) for name in names}
    return {name: told[name] for name in names if name in told}


def _mark_gone(head: Host, node: Node) -> None:
    """Drain it and declare it down: its jobs are queued again at once, not after a silence."""
    reason = f"reason=dto: gone: the cloud has taken {node.instance_id}"
    _change(head, "update", f"nodename={node.name}", "state=drain", reason)
    _change(head, "update", f"nodename={node.name}", "state=down", reason)


def _change(head: Host, *words: str) -> None:
    done = head.run(["scontrol", *words], timeout=30, sudo=True)
    if not done.is_ok:
        raise ClusterError(f"scontrol {' '.join(words)}: {(done.err or done.out).strip()}")


def as_operator(record: DtoCluster) -> DtoCluster:
    """Return the head's record as Ansible needs it here: the head's key, and wheels that are here.

    Wheels that an operator brought from elsewhere lie on the shared filesystem.
    """
    ssh = {**record.to_json().get("ssh", {}), "key": str(HEAD_KEY)}
    software = dict(record.to_json().get("software", {}))
    given = Path(record.shared.path) / "dto/wheels/given"
    if software.get("wheels") and not Path(software["wheels"]).expanduser().is_dir():
        software["wheels"] = str(given)
    return with_changes(record, {"ssh": ssh, **({"software": software} if software else {})})


def keep(names: Sequence[str], seen: DtoCluster) -> None:
    """Write nodes that joined, and their host keys, into the head's record as it is by now."""
    record = load_record(HEAD_RECORD)
    for name in names:
        node = seen.node(name)
        for old in [one for one in record.nodes if one.address == node.address]:
            record = record.without_node(old.name)
        keys = {place: seen.host_keys[place] for place in node.addresses if place in seen.host_keys}
        record = record.with_node(node).with_host_keys(keys)
    _write(record)


def keep_without(name: str) -> None:
    """Drop a node from the head's record."""
    with contextlib.suppress(ConfigError):  # it is not in there any more
        _write(load_record(HEAD_RECORD).without_node(name))


def _write(record: DtoCluster) -> None:
    with LocalHost(record.head.name) as head:
        head.write(HEAD_RECORD, record.seen_from_head().to_yaml(), mode=0o644, sudo=True)


def removed_by_hand() -> frozenset[str]:
    """Return the nodes that `dto cluster remove` took out."""
    return frozenset(path.name for path in _REMOVED.glob("*"))


@contextlib.contextmanager
def alone() -> Iterator[bool]:
    """Hold what a setup waits for; False where one goes on, and has gone on for less than an hour.

    What it leaves behind when it is killed counts for as long.
    """
    _LOCK.parent.mkdir(mode=0o755, exist_ok=True)
    with _LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            age = time.time() - _PAUSE.stat().st_mtime
        except FileNotFoundError:
            age = _PAUSE_SECONDS
        yield age >= _PAUSE_SECONDS
