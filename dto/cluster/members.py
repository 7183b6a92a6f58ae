"""One node more, or one less, while the cluster goes on."""

from __future__ import annotations

from collections.abc import Mapping

from dto.cluster import local
from dto.cluster.draft import draft_join, known_names
from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.inventory_hosts import Node
from dto.cluster.preflight import Look, probe
from dto.cluster.progress import Progress
from dto.cluster.provision import (
    Options,
    Runner,
    keep_record,
    problem_of,
    record_on_head,
    states_of,
    tell,
    with_joined,
)
from dto.cluster.session import Reach, Session, Terminal, opened
from dto.cluster.state import cluster_state
from dto.cluster.summary import Facts, duration, render_run
from dto.errors import ClusterError, UsageError
from dto.remote.local import LocalHost


def join(
    name: str | None,
    host: str,
    reach: Reach,
    options: Options,
    terminal: Terminal,
    env: Mapping[str, str],
    gpus: int | None = None,
) -> None:
    """Add the host IP, or NAME=IP, to a living cluster."""
    own_name, _, address = host.rpartition("=")
    if not address or "," in address or " " in address:
        raise UsageError(f"{host!r}: one host, as IP or NAME=IP")
    with opened(name, terminal, env, reach) as session, session.state.lock("join") as lock:
        session = with_joined(session)
        session = _draft(session, address, own_name or None, gpus=gpus)
        session, found = _look(session, address, reach)
        session = _named(session, found, address, own_name or None, gpus)
        _join(session, address, options, lock)


def join_this_machine(
    head: str, reach: Reach, options: Options, terminal: Terminal, env: Mapping[str, str]
) -> None:
    """Add the machine that we run on to the cluster of a head."""
    reach.check()
    here = probe(LocalHost("this machine"))
    if local.owns(head):
        raise UsageError(f"--head {head} is this machine: a head is no worker of its own")
    record = _record_of(head, reach, terminal, env)
    state = cluster_state(record.name, env)
    session = Session(state, record, terminal)
    address = local.address_towards(record.head.address)
    with state.lock("join") as lock:
        drafted = draft_join(
            record, address, name=here.hostname, gpus=here.gpus or None, local=True
        )
        session = session.with_record(drafted.record)
        session, _ = _look(session, address, reach)
        _join(session, address, options, lock)


def _record_of(head: str, reach: Reach, terminal: Terminal, env: Mapping[str, str]) -> DtoCluster:
    """Fetch the record from a head, which is reached by what was typed alone."""
    raw = {"name": "joining", "head": {"name": "head", "address": head}}
    stranger = reach.applied(parse_record(raw, "command line"))
    state = cluster_state("joining", env)
    session = Session(state, stranger, terminal)
    session, _ = session.look(accepts=reach.accept_new_host_keys)
    record = record_on_head(session)
    if record is None:
        raise ClusterError(f"{head} is not the head of a dto cluster: set that up first")
    keys = session.record.host_keys.get(head, ())
    changed = record.to_json()
    for member in (changed["head"], *changed.get("nodes", ())):
        member.pop("local", None)
    changed["head"]["public_address"] = head
    record = parse_record(changed, f"the record on {head}")
    return reach.applied(record.with_host_keys({head: keys}))


def _draft(session: Session, address: str, name: str | None, **facts: object) -> Session:
    drafted = draft_join(session.record, address, name=name, **facts)
    for note in drafted.notes:
        session.terminal.say(note)
    return session.with_record(drafted.record)


def _look(session: Session, address: str, reach: Reach) -> tuple[Session, Look]:
    """Look at the head and at the new node alone: the others have work to do."""
    node = session.record.node(address)
    session, found = session.look(
        accepts=reach.accept_new_host_keys, only=(session.record.head, node)
    )
    if node.name in found.unreachable:
        raise ClusterError(f"{found.unreachable[node.name]}; nothing was changed")
    return session, found


def _named(
    session: Session, found: Look, address: str, name: str | None, gpus: int | None
) -> Session:
    """Call a new node what it calls itself, with the GPUs that it has."""
    placeholder = session.record.node(address)
    seen = found.probes[placeholder.name]
    saved = session.state.load()
    if address in known_names(saved) or address in known_names(record_on_head(session)):
        return session
    smaller = session.record.without_node(placeholder.name)
    keys = {address: session.record.host_keys.get(address, ())}
    count = gpus if gpus is not None else seen.gpus or None
    drafted = draft_join(smaller, address, name=name or seen.hostname, gpus=count)
    return session.with_record(drafted.record.with_host_keys(keys))


def _join(session: Session, address: str, options: Options, lock: int) -> None:
    node = session.record.node(address)
    progress = Progress(session.terminal.out)
    runner = Runner(session, options, progress, [lock])
    runner.prepare()
    outcome = runner.run("playbooks/add-node.yml", limit=[session.record.head.name, node.name])
    if problem := problem_of(outcome, session, session.record.head.name):
        raise problem
    if node.name in outcome.unreachable:
        raise ClusterError(f"{node.name}: {outcome.unreachable[node.name]}")
    if options.check:
        session.terminal.say(f"{node.name} can join in; nothing was changed")
        return
    keep_record(session)
    states = states_of(session)
    log = str(session.state.log_path)
    session.terminal.say("\n" + render_run(outcome.changed, progress.seconds(), log, False))
    tell(session, Facts(states=states, verified=outcome.said))
    state = states[node.name].state if node.name in states else "unknown"
    session.terminal.say(f"\n{node.name} joined in {duration(progress.seconds())}: {state}")


def remove(
    name: str | None,
    node: str,
    reach: Reach,
    options: Options,
    terminal: Terminal,
    env: Mapping[str, str],
    yes: bool = False,
) -> None:
    """Take a node out: its jobs save and go on elsewhere; the machine itself stays as it is."""
    with opened(name, terminal, env, reach) as session, session.state.lock("remove") as lock:
        session = with_joined(session)
        gone = session.record.node(node)
        if gone.name == session.record.head.name:
            raise UsageError(f"{gone.name} is the head: a cluster cannot do without it")
        question = f"remove {gone.name} ({gone.address}) from cluster {session.record.name}?"
        if not yes and terminal.confirm(question) is False:
            raise ClusterError("nothing was changed")
        session, found = session.look(
            accepts=reach.accept_new_host_keys, only=(session.record.head, gone)
        )
        _remove(session, gone, found, options, lock)


def _remove(session: Session, gone: Node, found: Look, options: Options, lock: int) -> None:
    head = session.record.head.name
    if gone.name in found.unreachable:
        session.terminal.warn(f"{found.unreachable[gone.name]}: it is only taken off the head")
    runner = Runner(session, options, Progress(session.terminal.out), [lock])
    runner.prepare()
    outcome = runner.run(
        "playbooks/remove-node.yml",
        limit=[head, gone.name],
        variables={"dto_node": gone.name},
        saves=False,
    )
    if problem := problem_of(outcome, session, head):
        raise problem
    if options.check:
        return
    smaller = session.state.remove_host(session.record, gone.name)
    keep_record(session.with_record(smaller))
    for line in outcome.said:
        session.terminal.say(line)
    session.terminal.say(f"{gone.name} is no longer in cluster {smaller.name}")

