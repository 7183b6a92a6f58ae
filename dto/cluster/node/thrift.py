"""What the guard does next with each node, given how it stands. Pure: a table of decisions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dto.cluster.node import slurm
from dto.cluster.node.ledger import Account, Budget
from dto.cluster.node.members import Guarded, Member

RETRY_SECONDS = 300.0
_SETTLE_SECONDS = 60.0
_BUSY = frozenset({"ALLOCATED", "MIXED", "COMPLETING", "SUSPENDED"})

Kind = Literal["drain", "resume", "off", "on", "rest", "forget"]
"""`rest` drains an idle node and switches it off if no job slipped in."""


@dataclass(frozen=True)
class Action:
    kind: Kind
    name: str
    cause: str


@dataclass(frozen=True)
class Standing:
    """A node as it is now; `state` is None where SLURM does not know it (any more)."""

    member: Member
    account: Account
    answers: bool
    state: slurm.NodeState | None
    idle_seconds: float = 0.0

    @property
    def partitions(self) -> tuple[str, ...]:
        return self.member.partitions

    @property
    def is_empty(self) -> bool:
        return self.state is None or not self.state.flags & _BUSY

    @property
    def is_ready(self) -> bool:
        """Its slurmd runs, which its gate allows only to a sound host."""
        return self.answers and self.state is not None and self.state.answers

    def is_drained_for(self, *kinds: str) -> bool:
        return self.state is not None and self.state.is_drained and self.state.has_reason(*kinds)


@dataclass(frozen=True)
class Wish:
    """A job that waits for nodes."""

    partition: str
    nodes: int
    reason: str = ""


def parse_wishes(text: str) -> list[Wish]:
    """Read squeue's `%P|%D|%r`: jobs that wait because too few nodes are there."""
    found = []
    for line in text.splitlines():
        partition, count, reason = [*line.split("|", 2), "", ""][:3]
        waits = ("Resources", "Priority", "None", "ReqNodeNotAvail", "Nodes required", "Nodes_req")
        if count.isdigit() and reason.startswith(waits):
            found += [Wish(one, int(count), reason) for one in partition.split(",")[:1]]
    return found


def decide(
    level: str, nodes: Sequence[Standing], guarded: Guarded, wishes: Sequence[Wish], now: float
) -> list[Action]:
    """Return what to do, in order."""
    if level == "exhausted":
        return [action for node in nodes for action in _spend_nothing(node, guarded)]
    actions = [action for node in nodes for action in _come_back(node, guarded, now)]
    if guarded.power_on is not None:
        actions += _wake(nodes, guarded, wishes, now)
    if guarded.power_off is not None and not wishes:
        actions += [action for node in nodes for action in _rest(node, guarded.budget)]
    return actions


def _spend_nothing(node: Standing, guarded: Guarded) -> list[Action]:
    """Drain first; a node goes off at a later turn, once it is drained and empty."""
    name = node.member.name
    if node.state is not None and not node.state.is_drained:
        return [Action("drain", name, "budget")]
    may_go = guarded.power_off is not None and not node.member.is_head
    if may_go and node.account.is_on and node.is_empty:
        return [Action("off", name, "budget")]
    return []


def _come_back(node: Standing, guarded: Guarded, now: float) -> list[Action]:
    name, account = node.member.name, node.account
    if node.is_ready and account.is_on and node.is_drained_for("budget", "idle"):
        return [Action("resume", name, "there is budget")]
    if node.answers or guarded.power_on is None or not _may_try(account, now):
        return []
    was_off = not account.is_on and account.off_at is not None
    if was_off and account.cause == "budget" and not _was_tried(node, guarded):
        return [Action("on", name, "there is budget")]
    if node.is_drained_for("spot") and not guarded.is_replaced:
        return [Action("on", name, "the cloud had taken it")]
    is_replaced = was_off and _was_tried(node, guarded) and not account.is_starting
    if is_replaced and node.is_drained_for("budget", "idle"):
        return [Action("forget", name, "another machine is in its place")]
    return []


def _may_try(account: Account, now: float) -> bool:
    """A start that failed is tried again only after a while; one that worked hinders no other."""
    has_worked = account.off_at is not None and account.off_at > account.tried_at
    return has_worked or now - account.tried_at >= RETRY_SECONDS


def _was_tried(node: Standing, guarded: Guarded) -> bool:
    """Where another machine comes in its place, each one is asked for once only."""
    off_at = node.account.off_at or 0.0
    return node.account.is_starting or (guarded.is_replaced and node.account.tried_at > off_at)


def _wake(
    nodes: Sequence[Standing], guarded: Guarded, wishes: Sequence[Wish], now: float
) -> list[Action]:
    """Switch on as many idle nodes as waiting jobs ask for, in the jobs' own partitions."""
    wanted: dict[str, int] = {}
    for wish in wishes:
        wanted[wish.partition] = max(wanted.get(wish.partition, 0), wish.nodes)
    actions: list[Action] = []
    asleep = [node for node in nodes if node.account.cause == "idle" and not node.account.is_on
              and not node.answers and not _was_tried(node, guarded)
              and _may_try(node.account, now)]  # fmt: skip
    named = {name for wish in wishes for name in re.findall(r"[\w-]+", wish.reason)}
    asleep.sort(key=lambda node: node.member.name not in named)
    for partition, count in wanted.items():
        # A node that is free already does not suit the job, or it would not wait.
        coming = sum(partition in n.partitions and _is_coming(n, now) for n in nodes)
        for node in asleep:
            if coming >= count:
                break
            if partition in node.partitions and all(a.name != node.member.name for a in actions):
                actions.append(Action("on", node.member.name, "a job waits"))
                coming += 1
    return actions


def _is_coming(node: Standing, now: float) -> bool:
    """Tell whether a node was just started: SLURM needs a moment to put a job on it."""
    return node.account.is_starting or now - node.account.tried_at < _SETTLE_SECONDS


def _rest(node: Standing, budget: Budget) -> list[Action]:
    if budget.idle_minutes is None or node.member.is_head or not node.account.is_on:
        return []
    if node.idle_seconds < budget.idle_minutes * 60:
        return []
    return [Action("rest", node.member.name, "idle")]


def is_idle(state: slurm.NodeState | None) -> bool:
    """Tell whether a node could take a job and has none."""
    return (
        state is not None and "IDLE" in state.flags and state.answers
        and not state.is_drained and not state.flags & _BUSY
    )  # fmt: skip


def idle_since(
    before: Mapping[str, float], states: Mapping[str, slurm.NodeState], now: float
) -> dict[str, float]:
    """Return since when each idle node is idle."""
    return {name: before.get(name, now) for name, state in states.items() if is_idle(state)}
