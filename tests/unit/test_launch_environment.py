"""The table of contract 2, the sharing of CPUs, and who sits where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dto.errors import PreflightError
from dto.launch.cpus import Seat, Share, share_cpus
from dto.launch.environment import Job, Seating, rank_environment
from dto.launch.placement import Node, check, place
from dto.launch.spec import Spec, parse_spec

SEATING = Seating(
    rank=3,
    world=4,
    local_rank=1,
    local_world=2,
    node_rank=1,
    nodes=2,
    node="n2",
    master_address="10.0.0.1",
    master_port=12345,
    jax_port=12346,
    kv_address="10.0.0.9",
    kv_port=40000,
    interface="eth1",
    tf_workers=["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:3", "10.0.0.2:4"],
    threads=8,
)
JOB = Job("/runs/r", attempt=2, generation=1, backend="gloo", deadline=1000.5)


def test_the_whole_table() -> None:
    table = rank_environment(SEATING, JOB, {})
    assert json.loads(table.pop("TF_CONFIG")) == {
        "cluster": {"worker": ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:3", "10.0.0.2:4"]},
        "task": {"type": "worker", "index": 3},
    }
    assert table == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_RANK": "3",
        "ROLE_WORLD_SIZE": "4",
        "TORCHELASTIC_RUN_ID": "r",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "12345",
        "HOROVOD_RANK": "3",
        "HOROVOD_SIZE": "4",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_CROSS_RANK": "1",
        "HOROVOD_CROSS_SIZE": "2",
        "HOROVOD_HOSTNAME": "n2",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.9",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": "40000",
        "HOROVOD_GLOO_IFACE": "eth1",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
        "GLOO_SOCKET_IFNAME": "eth1",
        "NCCL_SOCKET_IFNAME": "=eth1",
        "JAX_COORDINATOR_ADDRESS": "10.0.0.1:12346",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "3",
        "DTO_RUN_DIR": "/runs/r",
        "DTO_ATTEMPT": "2",
        "DTO_GENERATION": "1",
        "DTO_BACKEND": "gloo",
        "DTO_NODE": "n2",
        "DTO_DEADLINE": "1000.500",
        "OMP_NUM_THREADS": "8",
        "PYTHONUNBUFFERED": "1",
    }


def test_what_a_person_set_better_stays_and_what_is_ours_does_not() -> None:
    given = {"OMP_NUM_THREADS": "3", "NCCL_SOCKET_IFNAME": "ib0", "RANK": "9"}
    table = rank_environment(SEATING, JOB, given)
    assert "OMP_NUM_THREADS" not in table and "NCCL_SOCKET_IFNAME" not in table
    assert table["RANK"] == "3"


def test_ranks_of_one_agent_divide_its_cpus() -> None:
    shares = share_cpus([Seat("h", (0, 1, 2, 3, 4), 2)])
    assert shares == [[Share((0, 1), 2), Share((2, 3), 2)]]


def test_agents_on_one_host_divide_the_same_cpus() -> None:
    same = share_cpus([Seat("h", (0, 1, 2, 3), 1), Seat("h", (0, 1, 2, 3), 1)])
    assert same == [[Share((0, 1), 2)], [Share((2, 3), 2)]]
    other = share_cpus([Seat("h", (0, 1), 1), Seat("h", (2, 3), 1), Seat("i", (0, 1), 1)])
    assert [share.threads for (share,) in other] == [2, 2, 2]


def test_more_ranks_than_cpus_are_not_bound() -> None:
    assert share_cpus([Seat("h", (0, 1), 3)]) == [[Share((), 1)] * 3]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 40), st.integers(0, 5))
def test_no_cpu_is_given_twice(ranks: list[int], cpus: int, wanted: int) -> None:
    seats = [Seat("h", tuple(range(cpus)), count) for count in ranks]
    shares = [share for seat in share_cpus(seats, wanted or None) for share in seat]
    bound = [cpu for share in shares for cpu in share.cpus]
    assert len(shares) == sum(ranks) and len(bound) == len(set(bound))
    assert len({share.threads for share in shares}) == 1


def node(name: str, **changes: Any) -> Node:
    facts = {
        "host": name,
        "cpus": [0, 1],
        "python": "3.11.7",
        "dto": "1",
        "problem": "",
        "given": {},
        "interface": "eth0",
    }
    addresses = {"coordinator_address": "10.0.0.1", "address": f"10.0.0.{name[-1]}"}
    own = {key: changes.pop(key) for key in list(changes) if key in ("coordinator_address",)}
    return Node(name, {**facts, **changes}, **{**addresses, **own}, ports=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem": "cannot start /x"}, "node n2 cannot start /x"),
        ({"python": "3.10.1"}, "node n2 has Python 3.10.1"),
        ({"dto": "0"}, "node n2 has dto 0"),
    ],
)
def test_a_node_at_fault_is_named(changes: dict[str, str], words: str) -> None:
    with pytest.raises(PreflightError, match=words):
        check([node("n1"), node("n2", **changes)], "1")


def test_loopback_between_different_machines_is_refused_and_on_one_is_fine() -> None:
    local = {"coordinator_address": "127.0.0.1"}
    with pytest.raises(PreflightError, match="loopback"):
        check([node("n1", **local), node("n2", **local)], "1")
    check([node("n1", host="h", **local), node("n2", host="h", **local)], "1")


def test_rank_0_is_met_where_the_others_reach_it() -> None:
    spec = Spec(python="p", cwd="/", script="s", nodes=2, ranks_per_node=2)
    nodes = [node("n1"), node("n2", coordinator_address="10.9.9.9")]
    beside = place(nodes, spec, JOB, coordinator_host="n1", kv_port=1)
    assert beside[1][1]["env"]["MASTER_ADDR"] == "10.9.9.9"  # the coordinator is on node 0
    apart = place(nodes, spec, JOB, coordinator_host="login", kv_port=1)
    assert apart[1][1]["env"]["MASTER_ADDR"] == "10.0.0.1"
    assert [entry["rank"] for seat in apart for entry in seat] == [0, 1, 2, 3]


def test_the_command_line() -> None:
    base = {"python": "py", "cwd": "/", "args": ["-x", ""]}
    assert parse_spec({**base, "script": "s.py"}).command() == ["py", "s.py", "-x", ""]
    assert parse_spec({**base, "module": "m"}).command() == ["py", "-m", "m", "-x", ""]
    assert parse_spec({**base, "script": "s.py", "unknown": 1}).world == 1
