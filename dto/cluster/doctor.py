"""Looks a cluster over, host by host, and says of each thing that is wrong what to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from dto.cluster.inventory import DtoCluster
from dto.cluster.inventory_hosts import Host as Member
from dto.cluster.provision import with_joined
from dto.cluster.session import Session
from dto.cluster.status import ClusterStatus, NodeStatus, ask
from dto.errors import ClusterError
from dto.remote.errors import (
    AuthenticationRefused,
    HostKeyChanged,
    RemoteError,
    UnknownHostKey,
)
from dto.remote.host import Host

_SECONDS = 60.0
_MOST_SKEW_SECONDS = 60.0
_LEAST_FREE_MIB = 2048

# Everything that is asked of a host, in one go; every part has a limit of its own.
_ASK = r"""
shared=$1
if [ "$(id -u)" = 0 ]; then root=; echo "sudo yes"
elif sudo -n true 2>/dev/null; then root="sudo -n"; echo "sudo yes"
else root=; echo "sudo no"; fi
echo "clock $(date +%s.%N)"
for folder in / /var /tmp; do
  echo "disk $folder $(df -Pm "$folder" | awk 'NR == 2 { print $4 }')"
done
if munge -n 2>/dev/null | timeout 10 unmunge >/dev/null 2>&1; then echo "munge yes"
else echo "munge no"; fi
token=$shared/dto/probe/.doctor-$$
if timeout 20 sh -c 'echo x > "$1" && rm "$1"' sh "$token" 2>/dev/null; then echo "shared yes"
elif timeout 20 test -d "$shared"; then echo "shared read-only"
else echo "shared no"; fi
for unit in munge slurmctld slurmd dto-gate; do
  echo "unit $unit $($root systemctl is-active "$unit" 2>/dev/null) $($root systemctl is-enabled "$unit" 2>/dev/null)"
done
"""  # noqa: E501


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on one host; `advice` is empty where it is in order."""

    host: str
    subject: str
    is_fine: bool
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Examined:
    """What one host answered."""

    facts: dict[str, str]
    skew_seconds: float


def examine(session: Session) -> list[Finding]:
    """Look at every host side by side, then at what the controller says of them."""
    session = with_joined(session)
    record = session.record
    members = list(record.members)
    with ThreadPoolExecutor(max_workers=16) as pool:
        groups = list(pool.map(lambda member: _host(session, member), members))
    try:
        with session.head() as head:
            status: ClusterStatus | None = ask(head)
            findings = [Finding(record.head.name, "controller", True, "it answers")]
    except ClusterError as error:
        status = None
        findings = [Finding(record.head.name, "controller", False, str(error), _CONTROLLER)]
    for member, found in zip(members, groups, strict=True):
        findings += found
        if status is not None and any(node.name == member.name for node in record.nodes):
            findings.append(judge_node(member.name, status.node(member.name)))
    return findings


_CONTROLLER = "on the head: systemctl status slurmctld, journalctl -u slurmctld"


def _host(session: Session, member: Member) -> list[Finding]:
    name = member.name
    try:
        with session.connect(member) as host:
            examined = _ask(host, session.record)
    except RemoteError as error:
        return [Finding(name, _subject(error), False, str(error), _advice(error))]
    return [Finding(name, "reachable", True, "yes"), *judge_host(session.record, name, examined)]


def _subject(error: RemoteError) -> str:
    if isinstance(error, UnknownHostKey | HostKeyChanged):
        return "host key"
    return "key" if isinstance(error, AuthenticationRefused) else "reachable"


def _advice(error: RemoteError) -> str:
    if isinstance(error, UnknownHostKey | HostKeyChanged | AuthenticationRefused):
        return ""  # its own words say it
    return "is it switched on, and does sshd run? A node that is gone for good: dto cluster remove"


def _ask(host: Host, record: DtoCluster) -> Examined:
    before = time.time()
    done = host.run(["sh", "-c", _ASK, "sh", record.shared.path], timeout=_SECONDS)
    after = time.time()
    facts: dict[str, str] = {}
    for line in done.out.splitlines():
        words = line.split()
        size = 2 if words and words[0] in ("disk", "unit") else 1
        facts[" ".join(words[:size])] = " ".join(words[size:])
    theirs = float(facts.get("clock") or before)
    # the answer was made between the two, so only what lies outside of them is skew
    skew = max(before - theirs, theirs - after, 0.0)
    return Examined(facts, skew)


def judge_host(record: DtoCluster, name: str, examined: Examined) -> list[Finding]:
    """Say of each thing that a host answered whether it is in order."""
    facts = examined.facts
    is_head = name == record.head.name
    is_node = any(node.name == name for node in record.nodes)

    def finding(subject: str, is_fine: bool, text: str, advice: str) -> Finding:
        return Finding(name, subject, is_fine, text, "" if is_fine else advice)

    skew = examined.skew_seconds
    found = [
        finding("sudo", facts.get("sudo") == "yes", facts.get("sudo", "?"),
                "give the login user NOPASSWD: ALL in sudoers"),
        finding("clock", skew <= _MOST_SKEW_SECONDS, f"{skew:.0f} s off",
                "systemctl restart chrony: munge refuses clocks that differ by minutes"),
        *_disks(facts, finding),
        finding("munge", facts.get("munge") == "yes", facts.get("munge", "?"),
                "systemctl restart munge; another key than the head's: run the setup again"),
        finding("shared", facts.get("shared") == "yes", facts.get("shared", "?"),
                f"is {record.shared.path} mounted here, and does its server answer?"),
    ]  # fmt: skip
    wanted = ["slurmctld"] if is_head else []
    wanted += ["slurmd"] if is_node else []
    return found + [_unit(finding, unit, facts.get(f"unit {unit}", "")) for unit in wanted]


def _disks(facts: dict[str, str], finding: Callable[..., Finding]) -> list[Finding]:
    sizes = {key.split()[1]: value for key, value in facts.items() if key.startswith("disk ")}
    full = [
        f"{folder} has {size} MiB left"
        for folder, size in sizes.items()
        if size.isdigit() and int(size) < _LEAST_FREE_MIB
    ]
    text = "; ".join(full) or "there is room"
    return [finding("disk", not full, text, "make room: apt-get clean, old logs and runs")]


def _unit(finding: Callable[..., Finding], unit: str, said: str) -> Finding:
    state = said.split()[0] if said else "not there"
    advice = f"systemctl status {unit}, journalctl -u {unit}; then run the setup again"
    return finding(unit, state == "active", state, advice)


def judge_node(name: str, node: NodeStatus | None) -> Finding:
    """Say what the controller thinks of a node; our own drains begin with dto:."""
    if node is None:
        advice = "its slurmd has not registered: journalctl -u dto-gate -u slurmd on it"
        return Finding(name, "node", False, "unknown to the controller", advice)
    text = f"{node.state} ({node.reason})" if node.reason else node.state
    if node.takes_jobs:
        return Finding(name, "node", True, text)
    if node.reason.startswith("dto:"):
        advice = "a check of dto took it out; it comes back by itself once that passes"
    elif "drain" in node.state:
        advice = f"somebody drained it; scontrol update nodename={name} state=resume"
    else:
        advice = "journalctl -u slurmd on it; is it up, and in time?"
    return Finding(name, "node", False, text, advice)


def to_json(findings: list[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in findings]
