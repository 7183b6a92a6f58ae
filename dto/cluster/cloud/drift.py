"""`drift`: what Terraform, the cloud, the record and SLURM say differently of one cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dto.cluster.cloud.aws import group_of as aws_group
from dto.cluster.cloud.aws import instances_of, node_name
from dto.cluster.cloud.planned import Planned
from dto.cluster.inventory import DtoCluster
from dto.cluster.provision import with_joined
from dto.cluster.session import Session
from dto.cluster.status import ask

_VERBS = {
    "create": "is not there: an apply would make it",
    "change": "is not as it is written: an apply would change",
    "destroy": "is no longer written: an apply would destroy it",
    "replace": "is not as it is written: an apply would destroy it and make it again",
}
_OUTSIDE = {
    "destroy": "was deleted by somebody else: an apply would make it again",
    "change": "was changed by somebody else: an apply would change back",
}
_SWITCHED_OFF = ("dto: budget", "dto: idle", "dto: power")


@dataclass(frozen=True)
class Seen:
    """A machine, or a node, as one of the three sees it."""

    name: str
    address: str
    detail: str = ""


@dataclass(frozen=True)
class Difference:
    """`kind` is resource, zombie, no machine or unknown; the text says what and what to do."""

    kind: str
    name: str
    text: str


def of_plan(planned: Planned) -> list[Difference]:
    """Say what an apply would do, and where somebody else has been at work.

    What was only read anew (a list that AWS itself keeps) leads to no change, and is no drift.
    """
    outside = {change.address: change.verb for change in planned.drift}
    found = []
    for change in planned.changes:
        words = _VERBS[change.verb]
        if change.verb in ("create", "change"):
            words = _OUTSIDE.get(outside.get(change.address, ""), words)
        keys = f" {', '.join(change.keys)}" if change.keys else ""
        text = f"{change.address} {words}{keys}"
        found.append(Difference("resource", change.address, text))
    return found


def compare(
    record: Iterable[Seen], slurm: Iterable[Seen] | None, cloud: Iterable[Seen] | None
) -> list[Difference]:
    """Lay the three lists side by side; None is a list that could not be had."""
    known = list(record)
    in_slurm, in_cloud = _places(slurm), _places(cloud)
    found = []
    if in_cloud is not None:
        for one in cloud or ():
            if in_slurm is not None and not _is_in(one, in_slurm):
                text = f"{one.name} ({one.detail}) runs and costs, but SLURM does not know it"
                found.append(Difference("zombie", one.name, f"{text}: {_JOIN}"))
            elif not _is_in(one, _places(known) or set()):
                text = f"{one.name} ({one.detail}) runs, but is not in the record: {_JOIN}"
                found.append(Difference("unknown", one.name, text))
        for node in slurm or ():
            if not _is_in(node, in_cloud) and not node.detail.startswith(_SWITCHED_OFF):
                text = f"{node.name} is a node of SLURM without a machine: dto cluster remove"
                found.append(Difference("no machine", node.name, f"{text} {node.name}"))
    named = {one.name for one in found}
    for node in known:
        gone = in_cloud is not None and not _is_in(node, in_cloud)
        lost = in_slurm is not None and not _is_in(node, in_slurm)
        if lost and (gone or in_cloud is None) and node.name not in named:
            text = f"{node.name} ({node.address}) is in the record alone: dto cluster remove"
            found.append(Difference("no machine", node.name, f"{text} {node.name}"))
    return found


_JOIN = "its head brings it in, unless somebody removed it (journalctl -u dto-enrol there)"


def _places(seen: Iterable[Seen] | None) -> set[str] | None:
    if seen is None:
        return None
    return {place for one in seen for place in (one.name, one.address) if place}


def _is_in(one: Seen, places: set[str]) -> bool:
    return one.name in places or one.address in places


def seen_in_cloud(record: DtoCluster) -> list[Seen] | None:
    """Return the machines that run as nodes; None for a cloud that we cannot ask."""
    if record.provider != "aws" or record.cloud.scaling_group is None:
        return None
    group = aws_group(record)
    _, found = instances_of(record)
    return [
        Seen(
            node_name(record.name, group, one.instance_id),
            one.address,
            f"{one.instance_id}, {one.instance_type}",
        )
        for one in found
    ]


def seen_by_head(session: Session) -> tuple[list[Seen], list[Seen]]:
    """Return the record's nodes, with those that joined since, and SLURM's.

    Raises:
        ClusterError: the head does not answer.
    """
    session = with_joined(session)
    heads = {session.record.head.name}
    with session.head() as head:
        status = ask(head)
    slurm = [
        Seen(node.name, node.address, node.reason)
        for node in status.nodes
        if node.name not in heads
    ]
    return seen_in_record(session.record), slurm


def seen_in_record(record: DtoCluster) -> list[Seen]:
    nodes = (node for node in record.nodes if node.name != record.head.name)
    return [Seen(node.name, node.address) for node in nodes]


def to_json(found: Iterable[Difference], notes: Iterable[str]) -> Mapping[str, object]:
    listed = [{"kind": one.kind, "name": one.name, "text": one.text} for one in found]
    return {"is_fine": not listed, "differences": listed, "notes": list(notes)}
