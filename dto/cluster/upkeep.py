"""What a cluster needs now and then: a check, a copy of what it cannot do without, an upgrade."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dto.cluster.node import archive
from dto.cluster.node.errors import NodeError
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
from dto.errors import ClusterError, DtoError, UsageError


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
    """Bring the packages of SLURM and munge up to date, node by node, while the others work."""
    with opened(name, terminal, env, reach) as session, session.state.lock("upgrade") as lock:
        session, found = _whole(session, reach)
        _play(session, found, options, lock, "playbooks/upgrade.yml", {})
        if not options.check:
            keep_record(session)


def backup(
    name: str | None, file: str, reach: Reach, terminal: Terminal, env: Mapping[str, str]
) -> None:
    """Fetch SLURM's state, the munge key and the record from the head into a file, 0600.

    An older file of that name stays until the new one is whole.
    """
    target = Path(file).expanduser().absolute()
    if not target.parent.is_dir():
        raise UsageError(f"{file}: there is no folder {target.parent}")
    if target.is_dir():
        raise UsageError(f"{file} is a folder: name a file")
    with opened(name, terminal, env, reach) as session, session.state.lock("backup") as lock:
        session, found = _head_alone(session, reach)
        partial = _private_file_beside(target)
        try:
            variables = {"dto_backup_file": str(partial)}
            _play(session, found, Options(), lock, "playbooks/backup.yml", variables)
            _facts_of(partial, session)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        terminal.say(f"saved in {target}; it holds the munge key: keep it like a password")


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
        facts = _facts_of(source, session)
        if facts["has_database"] and not session.record.slurm.accounting:
            raise ClusterError(
                f"{file} holds an accounting database, and cluster {session.record.name} keeps "
                "none: say slurm.accounting in its record and set it up; nothing was changed"
            )
        question = f"put the head of cluster {session.record.name} back to {source}?"
        if not yes and terminal.confirm(question) is False:
            raise ClusterError("nothing was changed")
        session, found = _whole(session, reach)
        variables = {"dto_backup_file": str(source)}
        # A second restore would forget what has run meanwhile; a setup brings the key there, too.
        remedy = "run cluster-setup.sh"
        _play(session, found, Options(), lock, "playbooks/restore.yml", variables, remedy)


def _private_file_beside(target: Path) -> Path:
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    os.close(descriptor)
    return Path(partial)


def _facts_of(archive_file: Path, session: Session) -> dict[str, Any]:
    """Read a backup to its end; a bad one is refused before a host is touched."""
    try:
        return archive.check(archive_file, session.record.name)
    except NodeError as error:
        raise DtoError(f"{error}; nothing was changed") from None


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
    remedy: str = "run it again",
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
        raise ClusterError(told_left_out(left_out, remedy))
