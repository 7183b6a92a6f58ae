"""Nodes come and go, and the head sees its cluster from inside."""

from __future__ import annotations

import pytest

from dto.cluster.inventory import parse_record
from dto.cluster.inventory_hosts import Node
from dto.errors import ConfigError
from tests.unit.cluster_records import public_key, record, small


def test_a_node_is_added_replaced_and_taken_away() -> None:
    before = record(host_keys={"10.0.0.3": [public_key()], "10.0.0.2": [public_key(1)]})
    more = before.with_node(Node(name="lab-003", address="10.0.0.4", gpus=1))
    assert more.node("lab-003").group == "gpu" and more.node("10.0.0.4").name == "lab-003"
    assert before.nodes == more.nodes[:2]
    moved = more.with_node(Node(name="lab-002", address="10.0.0.9"))
    assert [node.address for node in moved.nodes] == ["10.0.0.2", "10.0.0.9", "10.0.0.4"]
    less = before.without_node("lab-002")
    assert [node.name for node in less.nodes] == ["lab-001"]
    assert list(less.host_keys) == ["10.0.0.2"]
    with pytest.raises(
        ConfigError, match="no node 'lab-009' in cluster lab; its nodes are: lab-001"
    ):
        before.without_node("lab-009")
    with pytest.raises(ConfigError, match=r"nodes\[2\].address: '10.0.0.2' is given twice"):
        before.with_node(Node(name="lab-003", address="10.0.0.2"))


def test_the_head_reaches_the_nodes_by_their_inner_addresses() -> None:
    raw = small(ssh={"key": "/k", "bastion": "gate", "user": "ubuntu"})
    raw["head"]["public_address"] = "198.51.100.7"
    raw["nodes"][0]["public_address"] = "198.51.100.8"
    found = parse_record(raw, "t")
    assert [found.ssh_address(host) for host in found.members] == [
        "198.51.100.7",
        "198.51.100.8",
        "10.0.0.3",
    ]
    assert [found.needs_bastion(host) for host in found.members] == [False, False, True]
    inside = found.seen_from_head()
    assert inside.head.local and not any(node.local for node in inside.nodes)
    assert [inside.ssh_address(host) for host in inside.members] == [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
    ]
    assert (inside.ssh.key, inside.ssh.bastion, inside.ssh.user) == (None, None, "ubuntu")
