"""What the cost guard decides for each node."""

from __future__ import annotations

import pytest

from dto.cluster.node import slurm, thrift
from dto.cluster.node.ledger import Account
from dto.cluster.node.members import Guarded, Member, parse_guarded
from dto.cluster.node.thrift import Standing, Wish

N1 = Member("n1", "10.0.0.2", "i-1", "gpu", ("gpu", "all"), price=10.0)


def guarded(provider: str = "nebius", **budget: float) -> Guarded:
    raw = {"provider": provider, "members": [], "budget": budget,
           "power": {"on": "switch on {name}", "off": "switch off {name}"}}  # fmt: skip
    return parse_guarded(raw)


def state(flags: str, reason: str = "", name: str = "n1") -> slurm.NodeState:
    return slurm.NodeState(name, "10.0.0.2", frozenset(flags.split("+")), reason)


ON = Account(is_on=True, price=10.0)
OFF = Account(is_on=False, off_at=50.0, cause="budget")
RESTING = Account(is_on=False, off_at=50.0, cause="idle")
STARTING = Account(is_on=False, off_at=50.0, cause="budget", start_at=990.0, tried_at=990.0)
BUSY, IDLE = state("ALLOCATED"), state("IDLE")
DRAINED = state("IDLE+DRAIN", "dto: budget: it is used up")
DRAINING = state("ALLOCATED+DRAIN", "dto: budget: it is used up")
DOWN = state("DOWN+DRAIN+NOT_RESPONDING", "dto: budget: it is used up")
LEFT = state("DOWN+DRAIN+NOT_RESPONDING", "dto: spot notice: it shuts down")


def decided(
    level: str, node: Standing, config: Guarded | None = None, wishes: tuple[Wish, ...] = ()
) -> list[str]:
    found = thrift.decide(level, [node], config or guarded(), wishes, 1000.0)
    return [action.kind for action in found]


@pytest.mark.parametrize(
    ("level", "account", "answers", "seen", "actions"),
    [
        ("ok", ON, True, IDLE, []),
        ("warned", ON, True, BUSY, []),
        ("exhausted", ON, True, BUSY, ["drain"]),
        ("exhausted", ON, True, IDLE, ["drain"]),
        ("exhausted", ON, True, DRAINING, []),
        ("exhausted", ON, True, DRAINED, ["off"]),
        ("exhausted", ON, True, state("IDLE+DRAIN", "a new fan"), ["off"]),
        ("exhausted", ON, True, None, ["off"]),
        ("exhausted", OFF, False, DOWN, []),
        ("ok", OFF, True, DRAINED, []),  # it is still going off
        ("ok", OFF, False, DOWN, ["on"]),
        ("ok", STARTING, False, DOWN, []),
        ("ok", ON, True, DRAINED, ["resume"]),
        ("ok", ON, True, DOWN, []),  # its gate is not open yet
        ("ok", ON, True, state("IDLE+DRAIN", "a new fan"), []),
        ("ok", RESTING, False, DOWN, []),
        ("ok", ON, False, LEFT, ["on"]),
    ],
)  # fmt: skip
def test_each_standing_of_a_node_has_its_action(
    level: str, account: Account, answers: bool, seen: slurm.NodeState | None, actions: list[str]
):
    assert decided(level, Standing(N1, account, answers, seen)) == actions


def test_a_head_that_takes_jobs_is_drained_and_never_switched_off():
    head = Member("head", "10.0.0.1", is_head=True, price=1.0)
    assert decided("exhausted", Standing(head, ON, True, IDLE)) == ["drain"]
    assert decided("exhausted", Standing(head, ON, True, DRAINED)) == []


def test_without_a_power_command_nodes_are_only_drained():
    raw = {"provider": "metal", "members": [], "budget": {"amount": 1}}
    config = parse_guarded(raw)
    assert decided("exhausted", Standing(N1, ON, True, IDLE), config) == ["drain"]
    assert decided("exhausted", Standing(N1, ON, True, DRAINED), config) == []
    assert decided("ok", Standing(N1, ON, True, DRAINED), config) == ["resume"]


def test_a_cloud_that_sends_another_machine_is_asked_once_and_the_old_one_forgotten():
    config = guarded("aws")
    assert decided("ok", Standing(N1, OFF, False, DOWN), config) == ["on"]
    lost = Account(is_on=False, off_at=50.0, cause="budget", tried_at=60.0)
    assert decided("ok", Standing(N1, lost, False, DOWN), config) == ["forget"]
    assert decided("ok", Standing(N1, lost, False, DOWN)) == ["on"]
    assert decided("ok", Standing(N1, ON, False, LEFT), config) == []


def test_an_idle_node_rests_unless_a_job_waits():
    config = guarded(idle_minutes=10)
    assert decided("ok", Standing(N1, ON, True, IDLE, idle_seconds=599), config) == []
    idle = Standing(N1, ON, True, IDLE, idle_seconds=601)
    assert decided("ok", idle, config) == ["rest"]
    assert decided("ok", idle, config, (Wish("gpu", 2),)) == []
    assert decided("ok", idle, guarded()) == []


def test_as_many_resting_nodes_wake_as_a_job_lacks_those_it_names_first():
    nodes = [
        Standing(Member(f"n{n}", "a", partitions=("gpu",)), RESTING, False, None) for n in range(4)
    ]
    free = Standing(Member("n9", "a", partitions=("gpu",)), ON, True, IDLE)
    coming = Standing(Member("n8", "a", partitions=("gpu",)), STARTING, False, DOWN)
    wishes = [Wish("gpu", 3, "ReqNodeNotAvail, UnavailableNodes:n2"), Wish("cpu", 9)]
    found = thrift.decide("ok", [*nodes, free, coming], guarded(), wishes, 1000.0)
    assert [(action.kind, action.name) for action in found] == [("on", "n2"), ("on", "n0")]


def test_a_start_that_failed_is_tried_again_later_and_one_that_worked_hinders_no_other():
    wishes = (Wish("gpu", 1),)
    for cause, wanted in (("idle", wishes), ("budget", ())):
        failed = Account(off_at=600.0, cause=cause, tried_at=900.0)
        assert decided("ok", Standing(N1, failed, False, DOWN), wishes=wanted) == []
        long_ago = Account(off_at=600.0, cause=cause, tried_at=700.0)
        assert decided("ok", Standing(N1, long_ago, False, DOWN), wishes=wanted) == ["on"]
        worked = Account(off_at=950.0, cause=cause, tried_at=900.0)
        assert decided("ok", Standing(N1, worked, False, DOWN), wishes=wanted) == ["on"]


def test_only_jobs_that_lack_nodes_wish_for_some():
    text = "\n".join([
        "gpu|2|Resources", "gpu,cpu|1|ReqNodeNotAvail, UnavailableNodes:n[1-2]",
        "gpu|4|Nodes required for job are DOWN, DRAINED or reserved", "gpu|1|Dependency",
        "gpu|1|BeginTime", "gpu|1|JobHeldUser", "",
    ])  # fmt: skip
    found = [(wish.partition, wish.nodes) for wish in thrift.parse_wishes(text)]
    assert found == [("gpu", 2), ("gpu", 1), ("gpu", 4)]


def test_idle_time_begins_anew_after_each_job():
    since = thrift.idle_since({}, {"n1": IDLE}, 5.0)
    assert thrift.idle_since(since, {"n1": IDLE}, 9.0) == {"n1": 5.0}
    assert thrift.idle_since(since, {"n1": BUSY}, 9.0) == {}
