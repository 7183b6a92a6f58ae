"""What a setup came to, as text: on the terminal, and in cluster_summary.txt."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dto.cluster.inventory import DtoCluster
from dto.cluster.inventory_hosts import Host
from dto.cluster.status import NodeStatus
from dto.cluster.words import jump_parts


@dataclass(frozen=True)
class Facts:
    """What is told of a cluster beside its record."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, NodeStatus] = field(default_factory=dict)
    verified: Sequence[str] = ()


def render_run(changed: Mapping[str, int], seconds: float, log: str, is_check: bool) -> str:
    """Return what one run did: the number of tasks that changed something on each host."""
    rows = [(name, f"changed={count}") for name, count in changed.items()]
    lines = columns([("host", "would change" if is_check else "changed"), *rows]) if rows else []
    verb = "looked, and changed nothing," if is_check else "done"
    told = "" if is_check else f"; the log is {log}"
    return "\n".join([*lines, f"{verb} in {duration(seconds)}{told}"]) + "\n"


def render_summary(record: DtoCluster, facts: Facts) -> str:
    """Return what the cluster is now, and what to type next."""
    parts = [_head(record), _table(record, facts)]
    if facts.left_out:
        lines = [f"  {name}: {reason}" for name, reason in sorted(facts.left_out.items())]
        parts.append("\n".join(["left out (run it again when they answer)", *lines]))
    if facts.verified:
        parts.append("\n".join(["verified", *(f"  {line}" for line in facts.verified)]))
    parts.append("next\n" + "\n".join(f"  {line}" for line in next_commands(record)))
    return "\n\n".join(parts) + "\n"


def _head(record: DtoCluster) -> str:
    partitions = ", ".join(f"{p.name}{'*' if p.default else ''}" for p in record.partitions())
    count = len(record.nodes)
    rows = [
        ("cluster", f"{record.name} ({count} node{'' if count == 1 else 's'})"),
        ("head", f"{record.head.name} ({record.ssh_address(record.head)})"),
        ("partitions", partitions),
        ("shared", f"{record.shared.path} ({_shared_source(record)})"),
    ]
    return "\n".join(f"{name:11} {value}" for name, value in rows)


def _shared_source(record: DtoCluster) -> str:
    if record.shared.source:
        return f"{record.shared.kind}: {record.shared.source}"
    return "nfs, served by the head" if record.shared.kind == "nfs" else record.shared.kind


def _table(record: DtoCluster, facts: Facts) -> str:
    rows = [_row(record, host, facts) for host in record.members]
    return "\n".join(columns([("host", "address", "role", "gpus", "state"), *rows]))


def _row(record: DtoCluster, host: Host, facts: Facts) -> tuple[str, ...]:
    node = next((node for node in record.nodes if node.name == host.name), None)
    is_head = host.name == record.head.name
    role = "head, node" if is_head and node else "head" if is_head else node.group if node else ""
    gpus = f"{node.gpus} x {node.gpu_type}" if node and node.gpus else "-"
    return (host.name, host.address, role, gpus, _state(host, node is not None, facts))


def _state(host: Host, is_node: bool, facts: Facts) -> str:
    if host.name in facts.left_out:
        return "left out"
    if not is_node:
        return "-"
    status = facts.states.get(host.name)
    if status is None:
        return "unknown"
    return f"{status.state} ({status.reason})" if status.reason else status.state


def next_commands(record: DtoCluster) -> list[str]:
    """Return what to type next: log in, and train on two nodes if there is torch."""
    ready = min(2, max(1, len(record.nodes)))
    train = f"cd ~/dto && scripts/submit_job.sh -N {ready} examples/simple_net.py"
    if record.software.torch == "none":
        train = f"srun -N {ready} hostname"
    if record.head.local:
        return [train]
    words = ["ssh"]
    words += ["-i", record.ssh.key] if record.ssh.key else []
    words += ["-p", str(record.ssh.port)] if record.ssh.port != 22 else []
    if record.needs_bastion(record.head):
        words += _through_bastion(record)
    return [shlex.join([*words, f"{record.ssh.user}@{record.ssh_address(record.head)}"]), train]


def _through_bastion(record: DtoCluster) -> list[str]:
    """The way for ssh, which does not hand a key on to a host that it jumps over."""
    way, key = str(record.ssh.way_in), record.ssh.key
    if not key:
        return ["-J", way]
    user, place, port = jump_parts(way)
    inner = ["ssh", "-i", key.replace("%", "%%"), "-p", str(port or 22)]
    return ["-o", f"ProxyCommand={shlex.join([*inner, '-W', '[%h]:%p', f'{user}@{place}'])}"]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Line rows up."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
