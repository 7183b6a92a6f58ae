"""What a cloud runs of a cluster, as its head sees it: machines by their names, with host keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dto.cluster.cloud import aws, nebius
from dto.cluster.inventory import DtoCluster
from dto.cluster.inventory_hosts import Node
from dto.cluster.status import NodeStatus
from dto.errors import ConfigError
from dto.remote.host import Host


@dataclass(frozen=True)
class Running:
    """`record` is a cluster's with what runs and has told its host keys."""

    record: DtoCluster
    names: frozenset[str] = frozenset()
    """The nodes of it that run and whose host keys are known."""
    gone: tuple[Node, ...] = ()
    """The nodes whose machines the cloud has taken away for good."""
    waiting: tuple[str, ...] = ()
    """What is not there yet, in words."""

    @property
    def nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self.record.nodes if node.name in self.names}


def is_enrolled(record: DtoCluster) -> bool:
    """Tell whether the head itself brings in what its cloud starts."""
    if record.provider == "aws":
        return record.cloud.scaling_group is not None and record.cloud.host_keys is not None
    return record.provider == "nebius" and record.cloud.account is not None


def seen_from(head: Host, record: DtoCluster) -> Running:
    """Look at the cloud from the cluster's head, with what its machine may ask.

    Raises:
        ClusterError: the cloud does not answer, or refuses.
    """
    return _on_nebius(head, record) if record.provider == "nebius" else _on_aws(record)


def _on_aws(record: DtoCluster) -> Running:
    living = aws.living(record)
    wanted, found = aws.instances_of(record)
    gone = [node for node in record.nodes if node.instance_id and node.instance_id not in living]
    heirs = {one.address for one in found}
    for node in gone:
        if node.address in heirs:  # the others the guard may need to know
            record = record.without_node(node.name)
    keys = aws.published_keys(record)
    ready = [one for one in found if keys.get(one.instance_id)]
    group = aws.group_of(record)
    return Running(
        record=aws.node_entries(record, ready, keys),
        names=frozenset(aws.node_name(record.name, group, one.instance_id) for one in ready),
        gone=tuple(gone),
        waiting=tuple(aws.missing_of(record, wanted, found, keys)),
    )


def _on_nebius(head: Host, record: DtoCluster) -> Running:
    """Machines keep their names there; one that was made anew shows another host key."""
    keys, names, waiting = nebius.published_keys(head, record), [], []
    for machine in nebius.machines(head, record):
        if not keys.get(machine.name):
            waiting.append(f"{machine.name} has not left its host key")
            continue
        try:
            record = nebius.with_machine(record, machine, keys[machine.name])
        except ConfigError as error:
            waiting.append(str(error))
            continue
        names.append(machine.name)
    return Running(record, frozenset(names), waiting=tuple(waiting))


def newcomers(
    record: DtoCluster, running: Running, in_slurm: frozenset[str], removed: frozenset[str]
) -> list[str]:
    """Return the machines to bring in: not in the record, unknown to SLURM, or made anew.

    What a person has removed (`dto cluster remove`) stays outside.
    """
    written = {node.name: node for node in record.nodes}
    return [
        name
        for name, node in sorted(running.nodes.items())
        if name not in removed
        and (
            name not in written
            or name not in in_slurm
            or written[name].address != node.address
            or _has_other_keys(record, running.record, node.address)
        )
    ]


def parting(state: NodeStatus | None, *, has_heir: bool) -> Literal["drop", "delete", "mark", ""]:
    """Return how to part from a machine that is no more, given what SLURM says of its node.

    Marked ones are forgotten by the head's other service once no job waits for so many nodes; one
    whose address another machine has must go at once, or that would answer for it. What the guard
    holds off it needs to know, to wake something in its place.
    """
    if state is None:
        return "drop"
    if has_heir:
        return "delete"
    is_settled = "DRAIN" in state.state.upper() and state.reason.startswith(_SETTLED)
    return "" if is_settled else "mark"


_SETTLED = ("dto: gone", "dto: budget", "dto: idle")


def _has_other_keys(old: DtoCluster, new: DtoCluster, place: str) -> bool:
    known, shown = old.host_keys.get(place), new.host_keys.get(place)
    return bool(known and shown and not set(known) & set(shown))
