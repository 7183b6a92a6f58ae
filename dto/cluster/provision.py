"""Runs the playbooks over hosts that were looked at, verifies, and says what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dto.cluster.ansible_inventory import Operator, write_inventory
from dto.cluster.cloud import cost
from dto.cluster.cloud.running import is_enrolled
from dto.cluster.inventory import DtoCluster
from dto.cluster.outcome import Outcome
from dto.cluster.playbook import Play, data_folder, run_playbook
from dto.cluster.preflight import Look
from dto.cluster.progress import Progress
from dto.cluster.session import Session
from dto.cluster.sources import load_record
from dto.cluster.state import HEAD_RECORD
from dto.cluster.status import NodeStatus, ask
from dto.cluster.summary import Facts, render_run, render_summary
from dto.cluster.wheel import build_wheel, gather_tree, pack_node_programs
from dto.errors import ClusterError, DtoError, PreflightError
from dto.runs.files import write_atomic

SUMMARY = "cluster_summary.txt"
_OF_THE_CLOUD = ("dto: spot", "dto: gone")
_RETURNS = {"budget": "once there is budget", "idle": "when it is needed"}
_COPY = 'cd && cat > .cluster_summary.partial && mv -f .cluster_summary.partial "$1"'


@dataclass(frozen=True)
class Options:
    """How a playbook is run."""

    check: bool = False
    verify: bool = True
    verbose: bool = False


def provision(
    session: Session, found: Look, options: Options, keep_open: Sequence[int] = ()
) -> None:
    """Run site.yml on all hosts that answer; raises where not all of the cluster is there."""
    terminal, record = session.terminal, session.record
    progress = Progress(terminal.out)
    names = [m.name for m in record.members if m.name not in found.unreachable]
    limit = names if len(names) < len(record.members) else []
    resting = resting_of(session, found.unreachable)
    for name in sorted(found.unreachable.keys() - resting.keys()):
        terminal.warn(f"{name} is left out: {found.unreachable[name]}")
    runner = Runner(session, options, progress, keep_open)
    runner.prepare()
    if session.record.provider == "local" and not options.check:
        _make_shared_folder(session)
    outcome = runner.run("site.yml", limit=limit)
    missing = {**found.unreachable, **outcome.unreachable}
    for remark in outcome.remarks:
        terminal.warn(remark)
    problem = problem_of(outcome, session, record.head.name)
    if problem is None:
        resting |= resting_of(session, outcome.unreachable)
    left_out = {name: reason for name, reason in missing.items() if name not in resting}
    verified: list[str] = []
    if problem is None and not options.check:
        keep_record(session)
        if options.verify and record.nodes:
            verified, problem = runner.verify(limit)
    if not isinstance(problem, PreflightError):
        log = str(session.state.log_path)
        run = render_run(outcome.changed, progress.seconds(), log, options.check)
        terminal.say("\n" + run.rstrip("\n"))
        head_failed = any(f.host == record.head.name for f in outcome.real_failures())
        if not options.check and not head_failed:
            tell(session, Facts(left_out, states_of(session), verified))
    if problem is not None:
        raise problem
    if left_out:
        raise ClusterError(told_left_out(left_out))


def resting_of(session: Session, silent: Collection[str]) -> dict[str, str]:
    """Name those silent hosts with which all is well: the guard or the cloud switched them off.

    Where the head does not say so, a host is silent for a reason that nobody knows.
    """
    resting = {name: cause for name, cause in _held_off(session, silent).items() if name in silent}
    for name, cause in sorted(resting.items()):
        back = _RETURNS.get(cause, "by itself")
        words = f"is switched off by the guard ({cause}); it comes back {back}"
        session.terminal.say(f"{name} {words}")
    for name in sorted(_taken(session, set(silent) - set(resting))):
        resting[name] = "cloud"
        comes = "the head starts it again" if session.record.provider == "nebius" else _LEAVES
        session.terminal.say(f"{name} was taken by the cloud; {comes}")
    return resting


_LEAVES = "it leaves the cluster by itself, and another machine comes in its place"


def _held_off(session: Session, silent: Collection[str]) -> Mapping[str, str]:
    try:
        return cost.ask(session)[1].off if silent else {}
    except DtoError:
        return {}


def _taken(session: Session, silent: Collection[str]) -> set[str]:
    """Return those whom SLURM lets go because of a notice, or since their machines are no more."""
    states = states_of(session) if silent and session.record.provider != "metal" else {}
    gone = [state for state in states.values() if state.reason.startswith(_OF_THE_CLOUD)]
    return {state.name for state in gone if "DRAIN" in state.state.upper()} & set(silent)


class Runner:
    """Runs playbooks for one session: inventory and what is brought along are made once."""

    def __init__(
        self, session: Session, options: Options, progress: Progress, keep_open: Sequence[int] = ()
    ) -> None:
        self.session = session
        self.options = options
        self.progress = progress
        self.keep_open = keep_open
        self._is_saved = options.check

    def prepare(self) -> None:
        """Write the inventory, dto's wheel, its node programs, scripts and examples."""
        state = self.session.state
        self.progress.stage("prepare")
        payload = state.folder / "payload"
        payload.mkdir(parents=True, exist_ok=True)
        sources = {name: data_folder(name) for name in ("scripts", "examples")}
        operator = Operator(
            known_hosts=state.known_hosts,
            wheel=build_wheel(payload),
            tree=gather_tree(payload / "tree", sources),
            node_pyz=pack_node_programs(payload),
        )
        write_inventory(state.inventory_path, self.session.record, operator)

    def run(
        self,
        playbook: str,
        *,
        limit: Sequence[str] = (),
        variables: Mapping[str, Any] | None = None,
        saves: bool = True,
    ) -> Outcome:
        """Run a playbook of ours; the record is kept once something can have changed."""
        state = self.session.state
        play = Play(
            playbook=data_folder("ansible") / playbook,
            inventory=state.inventory_path,
            log=state.log_path,
            limit=limit,
            variables=variables or {},
            check=self.options.check,
            verbose=self.options.verbose,
            keep_open=self.keep_open,
        )
        if not saves:
            self._is_saved = True
        outcome = run_playbook(play, self._on_event, self.progress.tick)
        self.progress.close()
        return outcome

    def verify(self, limit: Sequence[str]) -> tuple[list[str], DtoError | None]:
        """Run the acceptance test; what it measured, and what is wrong if anything is."""
        outcome = self.run("playbooks/verify.yml", limit=limit)
        return outcome.said, problem_of(outcome, self.session, "")

    def _on_event(self, event: Mapping[str, Any]) -> None:
        if not self._is_saved and event["event"] == "task" and event["role"] != "validate":
            self.session.state.save(self.session.record)
            self._is_saved = True
        self.progress.take(event)


def problem_of(outcome: Outcome, session: Session, head: str) -> DtoError | None:
    """Return the one line that says what failed, as the error with its exit code."""
    failures = outcome.real_failures()
    if not failures:
        if head in outcome.unreachable:
            return ClusterError(f"the head {head}: {outcome.unreachable[head]}")
        return None
    first = next((failure for failure in failures if failure.host == head), failures[0])
    others = sorted({failure.host for failure in failures} - {first.host})
    more = f" (and on {', '.join(others)})" if others else ""
    if any(failure.is_validate for failure in failures):
        told = "; ".join(f"{f.host}: {f.message}" for f in failures if f.is_validate)
        return PreflightError(f"{told}; nothing was changed")
    return DtoError(f"{first}{more}; the log is {session.state.log_path}")


def told_left_out(left_out: Mapping[str, str], remedy: str = "run it again") -> str:
    told = "; ".join(f"{name} ({reason})" for name, reason in sorted(left_out.items()))
    return f"left out: {told}: {remedy} when they answer"


def states_of(session: Session) -> dict[str, NodeStatus]:
    """Return the nodes as the controller sees them; nothing where it cannot be asked."""
    try:
        with session.head() as host:
            return {node.name: node for node in ask(host).nodes}
    except ClusterError:
        return {}


def tell(session: Session, facts: Facts) -> None:
    """Print the summary, and leave it here and in the login user's home on the head."""
    text = render_summary(session.record, facts)
    session.terminal.say("\n" + text.rstrip("\n"))
    write_atomic(session.state.summary_path, text)
    try:
        with session.head() as host:
            done = host.run(["sh", "-c", _COPY, "sh", SUMMARY], input=text)
    except ClusterError as error:
        session.terminal.warn(f"{SUMMARY} could not be left on the head: {error}")
        return
    if not done.is_ok:
        session.terminal.warn(f"{SUMMARY} could not be left on the head: {done.err.strip()}")


def keep_record(session: Session) -> None:
    """Leave the record on the head, where commands on the head, and nodes that join, find it."""
    text = session.record.seen_from_head().to_yaml()
    with session.head() as host:
        try:
            if host.read(HEAD_RECORD).decode() == text:
                return
        except ClusterError:
            pass  # it is not there yet
        host.write(HEAD_RECORD, text, mode=0o644, sudo=True)


def _make_shared_folder(session: Session) -> None:
    """A cluster of one machine shares a folder with itself: somebody has to make it."""
    path = session.record.shared.path
    if session.record.shared.kind != "existing" or Path(path).is_dir():
        return
    with session.head() as host:
        done = host.run(["install", "-d", "-m", "755", path], sudo=True)
    if not done.is_ok:
        raise DtoError(f"{path} could not be made: {done.err.strip()}")


def record_on_head(session: Session) -> DtoCluster | None:
    """Return the record as the head has it; None where it has none, or does not answer."""
    fetched = session.state.folder / "record-of-head.yaml"
    try:
        with session.head() as host:
            content = host.read(HEAD_RECORD)
    except ClusterError:
        return None
    write_atomic(fetched, content.decode())
    return load_record(fetched)


def with_joined(session: Session, *, drops: bool = True) -> Session:
    """Return the session with the nodes that have joined by themselves meanwhile.

    Where the head enrols, machines of the cloud that it has let go of are no nodes any more.
    """
    theirs = record_on_head(session)
    record = session.record
    if theirs is None or theirs.name != record.name:
        return session
    if drops and is_enrolled(theirs):
        names = {node.name for node in theirs.nodes}
        for node in record.nodes:
            if node.instance_id and node.name not in names:
                record = record.without_node(node.name)
    known = {place for member in record.members for place in (member.name, member.address)}
    for node in theirs.nodes:
        if node.name not in known and node.address not in known:
            record = record.with_node(node)
    return session.with_record(record)
