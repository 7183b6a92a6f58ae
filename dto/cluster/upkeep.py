"""What a cluster needs now and then: a check, a copy of what it cannot do without, an upgrade."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dto.cluster.preflight import Look
from dto.cluster.progress import Progress
from dto.cluster.provision import (
    Options,
    Runner,
    keep_record,
    problem_of,
    told_left_out,
    with_joined,
)
from dto.cluster.session import Reach, Session, Terminal, opened
from dto.errors import ClusterError, UsageError


def verify(
    name: str | None, reach: Reach, options: Options, terminal: Terminal, env: Mapping[str, str]
) -> None:
    """Measure every node, and all-reduces between them; a node that fails stays drained."""
    with opened(name, terminal, env, reach) as session, session.state.lock("verify") as lock:
        session, found = _whole(session, reach)
        _play(session, found, options, lock, "playbooks/verify.yml", {})


def upgrade(
    name: str | None, reach: Reach, options: Options, terminal: Terminal, env: Mapping[str, str]
) -> None:
    """Bring packages and dto up to date, node by node, while the others work."""
    with opened(name, terminal, env, reach) as session, session.state.lock("upgrade") as lock:
        session, found = _whole(session, reach)
        _play(session, found, options, lock, "playbooks/upgrade.yml", {})
        if not options.check:
            keep_record(session)


def backup(
    name: str | None, file: str, reach: Reach, terminal: Terminal, env: Mapping[str, str]
) -> None:
    """Fetch SLURM's state, the munge key and the record from the head into a file, 0600."""
    target = Path(file).expanduser().absolute()
    if not target.parent.is_dir():
        raise UsageError(f"{file}: there is no folder {target.parent}")
    with opened(name, terminal, env, reach) as session, session.state.lock("backup") as lock:
        session, found = _head_alone(session, reach)
        variables = {"dto_backup_file": str(target)}
        _play(session, found, Options(), lock, "playbooks/backup.yml", variables)


def restore(
    name: str | None,
    file: str,
    reach: Reach,
    terminal: Terminal,
    env: Mapping[str, str],
    yes: bool = False,
) -> None:
    """Put back what a backup holds; jobs that started since are forgotten."""
    source = Path(file).expanduser().absolute()
    if not source.is_file():
        raise UsageError(f"{file}: there is no such file")
    with opened(name, terminal, env, reach) as session, session.state.lock("restore") as lock:
        question = f"put the head of cluster {session.record.name} back to {source}?"
        if not yes and terminal.confirm(question) is False:
            raise ClusterError("nothing was changed")
        session, found = _whole(session, reach)
        variables = {"dto_backup_file": str(source)}
        _play(session, found, Options(), lock, "playbooks/restore.yml", variables)


def _whole(session: Session, reach: Reach) -> tuple[Session, Look]:
    return with_joined(session).look(accepts=reach.accept_new_host_keys)


def _head_alone(session: Session, reach: Reach) -> tuple[Session, Look]:
    head = (session.record.head,)
    return session.look(accepts=reach.accept_new_host_keys, only=head)


def _play(
    session: Session,
    found: Look,
    options: Options,
    lock: int,
    playbook: str,
    variables: Mapping[str, object],
) -> None:
    there = [m.name for m in session.record.members if m.name in found.probes]
    runner = Runner(session, options, Progress(session.terminal.out), [lock])
    runner.prepare()
    limit = there if len(there) < len(session.record.members) else []
    outcome = runner.run(playbook, limit=limit, variables=variables, saves=False)
    for line in outcome.said:
        session.terminal.say(line)
    if problem := problem_of(outcome, session, session.record.head.name):
        raise problem
    left_out = {**found.unreachable, **outcome.unreachable}
    if left_out:
        raise ClusterError(told_left_out(left_out))
