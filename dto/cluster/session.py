"""What every command on a cluster shares: its record and folder, ways to its hosts, a person."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TextIO

from dto.cluster import preflight
from dto.cluster.cloud import nebius
from dto.cluster.inventory import DtoCluster
from dto.cluster.inventory_hosts import Host as Member
from dto.cluster.keys import write_known_hosts
from dto.cluster.state import ClusterState, open_cluster
from dto.errors import UsageError
from dto.remote.host import Host
from dto.remote.local import LocalHost

CONNECT_SECONDS = 15.0
_HOPS = 4


class Terminal(Protocol):
    """Where people read and answer; the command line provides it."""

    out: TextIO

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def confirm(self, question: str) -> bool | None:
        """Ask for a yes; None where nobody is there to give it."""
        ...


@dataclass(frozen=True)
class Reach:
    """Flags that say how hosts are reached; they go before what the record says."""

    private_key: str | None = None
    user: str | None = None
    port: int | None = None
    bastion: str | None = None
    accept_new_host_keys: bool = False

    def check(self) -> None:
        if self.private_key is not None:
            path = Path(self.private_key).expanduser()
            if not path.is_file():
                raise UsageError(f"--private-key {self.private_key}: there is no such file")
            try:
                path.open("rb").close()
            except OSError as error:
                raise UsageError(f"--private-key {self.private_key}: {error.strerror}") from None

    def applied(self, record: DtoCluster) -> DtoCluster:
        """Return the record with these flags in it."""
        key = os.path.abspath(os.path.expanduser(self.private_key)) if self.private_key else None
        given = {"key": key, "user": self.user, "port": self.port, "bastion": self.bastion}
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes:
            return record
        return with_changes(record, {"ssh": {**record.to_json().get("ssh", {}), **changes}})


def with_changes(record: DtoCluster, changes: Mapping[str, object]) -> DtoCluster:
    from dto.cluster.inventory import parse_record

    return parse_record({**record.to_json(), **changes}, f"cluster {record.name}")


@dataclass(frozen=True)
class Session:
    """One cluster, as a command works on it."""

    state: ClusterState
    record: DtoCluster
    terminal: Terminal
    is_head: bool = False

    def with_record(self, record: DtoCluster) -> Session:
        return replace(self, record=record)

    def connect(self, member: Member, timeout: float = CONNECT_SECONDS) -> Host:
        """Log in to a host of the record; this machine needs no login."""
        if member.local:
            return LocalHost(member.name)
        from dto.remote.ssh import SshTarget, connect

        record = self.record
        home = Path.home() / ".ssh"
        usual = (home / "known_hosts", home / "known_hosts2", Path("/etc/ssh/ssh_known_hosts"))
        keys = [key for address in member.addresses for key in record.host_keys.get(address, ())]
        return connect(
            SshTarget(
                address=record.ssh_address(member),
                user=record.ssh.user,
                port=record.ssh.port,
                key=record.ssh.key,
                bastion=record.ssh.way_in if record.needs_bastion(member) else None,
                known_hosts=(self.state.known_hosts, *usual),
                host_keys=tuple(dict.fromkeys(keys)),
            ),
            timeout=timeout,
        )

    def head(self) -> Host:
        return self.connect(self.record.head)

    def look(
        self, *, accepts: bool, only: Sequence[Member] = ()
    ) -> tuple[Session, preflight.Look]:
        """Look at all hosts, or only at some, and refuse what cannot work.

        Unknown host keys are confirmed by a person, once, or the end.

        Returns the session with the host keys that are trusted now.
        """
        self.state.create()
        write_known_hosts(self.state.known_hosts, self.record)
        session, found = self, preflight.Look()
        rest = list(only or self.record.members)
        for _ in range(_HOPS):  # behind a bastion that was unknown itself, hosts are met later
            new = preflight.look(rest, session.connect)
            found.take(new)
            preflight.refuse_changed_keys(found)
            if not new.unknown:
                break
            session = session._introduced(new, found) or session._trusting(new, accepts)
            write_known_hosts(session.state.known_hosts, session.record)  # bastions are found there
            rest = [member for member in rest if member.name in new.unknown]
        session = session._keeping(found)
        preflight.judge(session.record, found)
        return session, found

    def _introduced(self, new: preflight.Look, found: preflight.Look) -> Session | None:
        """Let a head on Nebius that we know vouch for its nodes, if it can."""
        head = self.record.head
        if self.record.provider != "nebius" or head.name not in found.probes:
            return None
        unknown = sorted(new.unknown)
        with self.connect(head) as host:
            record = nebius.introduced(self.record, unknown, host, self.terminal.say)
        return None if record == self.record else self.with_record(record)

    def _trusting(self, found: preflight.Look, accepts: bool) -> Session:
        head = found.unknown.get(self.record.head.name)
        if self.record.provider == "nebius" and head:  # it vouches for the others
            found = preflight.Look(unknown={self.record.head.name: head})
        if not accepts and not self.terminal.confirm(preflight.question(found)):
            raise preflight.refusal_of_unknown_keys(found)
        return self.with_record(self.record.with_host_keys(preflight.unknown_keys(found)))

    def _keeping(self, found: preflight.Look) -> Session:
        """Bring what ~/.ssh/known_hosts vouched for into the cluster's own list, for Ansible.

        A host that showed a key we trust says itself which others it has.
        """
        keys = {
            self.record.ssh_address(member): found.probes[member.name].host_keys
            for member in self.record.members
            if not member.local and member.name in found.probes
        }
        trusted = self.record.host_keys
        news = {
            place: tuple(dict.fromkeys((*trusted.get(place, ()), *given)))
            for place, given in keys.items()
            if set(given) - set(trusted.get(place, ()))
        }
        session = self.with_record(self.record.with_host_keys(news)) if news else self
        write_known_hosts(self.state.known_hosts, session.record)
        return session


@contextlib.contextmanager
def opened(
    name: str | None, terminal: Terminal, env: Mapping[str, str], reach: Reach | None = None
) -> Iterator[Session]:
    """Open a cluster that exists."""
    reach = reach or Reach()
    reach.check()
    found = open_cluster(name, env)
    record = reach.applied(found.record)
    yield Session(found.state, record, terminal, found.is_head)
