"""What the head is told of prices and power switches, and the commands made of it."""

from __future__ import annotations

import json

import pytest

from dto.cluster.guarded import guard_facts, guard_variable
from dto.cluster.node.errors import NodeError
from dto.cluster.node.ledger import Budget
from dto.cluster.node.members import Member, parse_guarded, power_argv
from tests.unit.cluster_records import record

# Power commands


def test_a_power_command_is_words_and_no_value_adds_one():
    odd = Member("n1; reboot", "10.0.0.2", "i 1")
    command = "ipmitool -H '{name}' --id={instance_id} {{x}} chassis power on"
    assert power_argv(command, odd) == [
        "ipmitool", "-H", "n1; reboot", "--id=i 1", "{x}", "chassis", "power", "on",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words"),
    [("x {instance_id}", "what instance_id of n1 is"), ("x 'y", "cannot be used")],
)
def test_a_power_command_that_cannot_be_filled_in_says_why(command: str, words: str):
    with pytest.raises(NodeError, match=words):
        power_argv(command, Member("n1", "10.0.0.2"))


# What the operator's side hands over


def test_the_guard_is_told_prices_partitions_and_power():
    found = record(
        provider="aws", prices={"p5": 60.0, "p5-spot": 20.0},
        budget={"amount": 100}, power={"off": "cloud-power off aws {instance_id}"},
        node_groups={"gpu": {}, "cpu": {}},
        nodes=[
            {"name": "a", "address": "10.0.0.2", "instance_type": "p5", "group": "gpu", "gpus": 8},
            {"name": "b", "address": "10.0.0.3", "instance_type": "p5", "spot": True,
             "group": "cpu", "instance_id": "i-7"},
            {"name": "c", "address": "10.0.0.4", "hourly_usd": 1.5, "group": "gpu"},
        ],
    )  # fmt: skip
    config = parse_guarded(json.loads(json.dumps(guard_facts(found))))
    assert [(m.name, m.price, m.partitions) for m in config.members] == [
        ("lab-head", None, ()), ("a", 60.0, ("gpu", "all")), ("b", 20.0, ("cpu", "all")),
        ("c", 1.5, ("gpu", "all")),
    ]  # fmt: skip
    assert config.mere_head == "lab-head" and config.is_replaced and config.is_cloud
    assert config.power_off and power_argv(config.power_off, config.members[2])[-1] == "i-7"
    assert config.budget == Budget(amount=100) and config.power_on is None


def test_nothing_is_guarded_where_nothing_costs():
    assert guard_variable(record()) == ""
    assert guard_variable(record(power={"off": "x {name}"})) == ""
    assert guard_variable(record(budget={"hours": 5}))
