"""Which machines of a cloud the head brings in, and which it lets go of."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dto.cluster.cloud import enrol, nebius
from dto.cluster.cloud.running import Running, is_enrolled, newcomers, parting
from dto.cluster.inventory import DtoCluster
from dto.cluster.outcome import Counts, Failure, Outcome
from dto.cluster.status import NodeStatus
from dto.errors import ClusterError, ConfigError, PreflightError, UsageError
from tests.unit.cluster_records import public_key, record
from tests.unit.test_cluster_provision import Reader

AWS = {"scaling_group": "lab-nodes", "host_keys": "/dto/lab/host-keys"}


def new(
    running: DtoCluster,
    *,
    written: DtoCluster | None = None,
    slurm: tuple[str, ...] = ("lab-001", "lab-002"),
    removed: tuple[str, ...] = (),
) -> list[str]:
    names = frozenset(node.name for node in running.nodes)
    seen = Running(running, names)
    return newcomers(written or record(), seen, frozenset(slurm), frozenset(removed))


def with_node(name: str, address: str) -> DtoCluster:
    raw = record().to_json()
    return record(nodes=[*raw["nodes"], {"name": name, "address": address}])


def test_a_machine_that_is_not_in_the_record_is_new() -> None:
    assert new(record()) == []
    assert new(with_node("lab-003", "10.0.0.4")) == ["lab-003"]


def test_a_machine_that_was_written_down_and_never_set_up_is_new() -> None:
    assert new(record(), slurm=("lab-001",)) == ["lab-002"]


def test_what_a_person_removed_stays_outside() -> None:
    assert new(with_node("lab-003", "10.0.0.4"), removed=("lab-003",)) == []
    assert new(record(), slurm=("lab-001",), removed=("lab-002",)) == []


def test_a_machine_that_was_made_anew_is_new() -> None:
    before = record(host_keys={"10.0.0.2": [public_key(1)]})
    assert new(record(host_keys={"10.0.0.2": [public_key(2), public_key(1)]}), written=before) == []
    assert new(record(host_keys={"10.0.0.2": [public_key(2)]}), written=before) == ["lab-001"]
    moved = [{"name": "lab-001", "address": "10.0.0.9"}, {"name": "lab-002", "address": "10.0.0.3"}]
    assert new(record(nodes=moved)) == ["lab-001"]


def test_a_machine_that_does_not_run_is_not_looked_for() -> None:
    seen = Running(record(), frozenset({"lab-001"}))
    assert newcomers(record(), seen, frozenset(), frozenset()) == ["lab-001"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, False),
        ({"provider": "aws"}, False),
        ({"provider": "aws", "cloud": AWS}, True),
        ({"provider": "aws", "cloud": {"scaling_group": "by-hand"}}, False),
        ({"provider": "nebius"}, False),
        ({"provider": "nebius", "cloud": {"account": "project-x"}}, True),
    ],
)
def test_only_a_head_that_terraform_made_enrols(more: dict[str, object], expected: bool) -> None:
    assert is_enrolled(record(**more)) is expected


def test_wheels_are_taken_from_where_the_operator_brought_them(tmp_path: Path) -> None:
    shared = {"kind": "existing", "path": str(tmp_path)}
    elsewhere = record(shared=shared, software={"wheels": "/home/operator/wheels", "torch": "cpu"})
    ours = enrol.as_operator(elsewhere)
    assert ours.software.wheels == f"{tmp_path}/dto/wheels/given"
    assert (ours.ssh.key, ours.software.torch) == (str(enrol.HEAD_KEY), "cpu")
    here = record(shared=shared, software={"wheels": str(tmp_path)})
    assert enrol.as_operator(here).software.wheels == str(tmp_path)
    assert enrol.as_operator(record(shared=shared)).software.wheels is None


@pytest.fixture
def head_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "record.yaml"
    monkeypatch.setattr(enrol, "HEAD_RECORD", path)
    monkeypatch.setattr(enrol, "_LOCK", tmp_path / "run" / "lock")
    monkeypatch.setattr(enrol, "_PAUSE", tmp_path / "run" / "setup-began")
    path.write_text(record().seen_from_head().to_yaml())
    return path


def test_a_node_that_joined_takes_the_place_of_one_with_its_address(head_record: Path) -> None:
    key = public_key(3)
    seen = record(nodes=[{"name": "lab-x", "address": "10.0.0.3"}], host_keys={"10.0.0.3": [key]})
    enrol.keep(["lab-x"], seen)
    kept = enrol.load_record(head_record)
    assert [node.name for node in kept.nodes] == ["lab-001", "lab-x"]
    assert kept.host_keys == {"10.0.0.3": (key,)}
    assert head_record.stat().st_mode & 0o777 == 0o644


def test_a_node_is_dropped_once_and_may_be_gone_already(head_record: Path) -> None:
    for _ in range(2):
        enrol.keep_without("lab-002")
    assert [node.name for node in enrol.load_record(head_record).nodes] == ["lab-001"]


def test_nothing_is_enrolled_while_somebody_sets_the_cluster_up(head_record: Path) -> None:
    with enrol.alone() as is_alone:
        assert is_alone
    pause = head_record.parent / "run" / "setup-began"
    pause.touch()
    with enrol.alone() as is_alone:
        assert not is_alone
    os.utime(pause, (0, 0))  # what a killed setup left behind
    with enrol.alone() as is_alone:
        assert is_alone


def test_a_machine_on_nebius_becomes_a_node_of_its_group() -> None:
    machine = nebius.Machine("lab-002", "10.0.0.9", "cpu-d3/4vcpu-16gb", True, "computeinstance-x")
    groups = {"gpu": {"gpus": 8, "features": ["infiniband"]}}
    before = record(node_groups=groups, nodes=[], host_keys={"10.0.0.1": [public_key(1)]})
    after = nebius.with_machine(before, machine, [public_key(2)])
    node = after.node("lab-002")
    assert (node.group, node.gpus, node.spot) == ("gpu", 8, True)
    assert (node.instance_id, node.instance_type) == ("computeinstance-x", "cpu-d3/4vcpu-16gb")
    assert after.host_keys == {"10.0.0.1": (public_key(1),), "10.0.0.9": (public_key(2),)}
    again = nebius.Machine("lab-002", "10.0.0.9", "cpu-d3/4vcpu-16gb", True)
    kept = nebius.with_machine(after, again, [public_key(2)]).node("lab-002")
    assert kept.instance_id == "computeinstance-x", "what a machine cannot tell is not forgotten"


def test_a_machine_with_the_address_of_another_is_told_and_left_out() -> None:
    machine = nebius.Machine("lab-009", "10.0.0.2", "cpu-d3/4vcpu-16gb", False)
    with pytest.raises(ConfigError, match="10.0.0.2"):
        nebius.with_machine(record(), machine, [public_key(2)])


@pytest.mark.parametrize(
    ("state", "reason", "step"),
    [
        ("IDLE", "", "mark"),
        ("DOWN+NOT_RESPONDING", "Not responding", "mark"),
        ("DOWN+DRAIN", "dto: spot notice: terminate at 12:02:00 UTC", "mark"),
        ("IDLE+DRAIN", "dto: health: the clock is wrong", "mark"),
        ("DOWN+DRAIN", "a new fan", "mark"),
        ("DOWN+DRAIN", "dto: gone: the cloud has taken i-1", ""),
        ("DOWN+DRAIN", "dto: idle: no job for too long", ""),
        ("DOWN+DRAIN", "dto: budget: it is used up", ""),
    ],
)
def test_slurm_is_told_once_of_a_machine_that_is_no_more(
    state: str, reason: str, step: str
) -> None:
    node = NodeStatus("lab-001", state, "10.0.0.2", (), 1, 0, 1, 0, 0, reason)
    assert parting(node, has_heir=False) == step
    assert parting(node, has_heir=True) == "delete", "another machine would answer for it"


def test_a_machine_that_slurm_has_forgotten_leaves_the_record() -> None:
    assert parting(None, has_heir=False) == parting(None, has_heir=True) == "drop"


def ended(*failed: tuple[str, str], unreachable: str = "") -> Outcome:
    """How a run of add-node ended on the hosts head, a and b; a failure is (host, role)."""
    failures = [Failure(host, "Do", role, "no", role == "validate") for host, role in failed]
    hosts = {name: Counts(ok=1, failed=any(name == one for one, _ in failed))
             for name in ("head", "a", "b")}  # fmt: skip
    return Outcome(failures, {unreachable: "silent"} if unreachable else {}, hosts=hosts)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (ended(), set()),
        (ended(("a", "munge")), {"a"}),
        (ended(unreachable="b"), {"b"}),
        (ended(("a", "validate")), {"a", "b"}),
        (ended(("head", "munge")), {"a", "b"}),
        (ended(unreachable="head"), {"a", "b"}),
    ],
)
def test_a_machine_that_was_not_set_up_has_not_joined(outcome: Outcome, expected: set[str]) -> None:
    assert set(enrol.failures_of(outcome, "head", ["a", "b"])) == expected


class Deaf(enrol.Enroller):
    """No machine can be set up."""

    def _provision(self, running: Running, names: Sequence[str]) -> dict[str, str]:
        raise PreflightError(f"{names[0]}: no sudo")


def test_machines_that_failed_together_are_tried_again_one_by_one_and_ever_later() -> None:
    reader = Reader()
    enroller = Deaf(reader, {})
    two = ["lab-001", "lab-002"]
    assert enroller._due(two, 0.0) == two
    enroller._bring_in(Running(record()), two)
    now = time.monotonic()
    assert enroller._due(two, now) == []
    assert enroller._due([*two, "lab-003"], now + 60) == ["lab-003"], "a new one goes first"
    assert enroller._due(two, now + 60) == ["lab-001"]
    enroller._bring_in(Running(record()), ["lab-001"])
    assert enroller._due(two, now + 40) == ["lab-002"]
    assert "lab-001 did not join: lab-001: no sudo; tried again in 60 s" in reader.out.getvalue()


def test_a_head_of_bare_machines_has_nothing_to_enrol(head_record: Path) -> None:
    with pytest.raises(UsageError, match="no cloud starts machines of cluster lab"):
        enrol.serve(Reader(), {})


def test_before_the_first_setup_has_ended_the_head_waits_and_says_so_once(
    head_record: Path,
) -> None:
    head_record.unlink()
    reader = Reader()
    enroller = enrol.Enroller(reader, {})
    for moment in (0.0, 15.0):
        enroller.turn(moment)
    assert reader.out.getvalue().count("waiting: there is no") == 1


def test_a_head_without_a_key_says_what_to_do(
    head_record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head_record.write_text(record(provider="aws", cloud=AWS).seen_from_head().to_yaml())
    monkeypatch.setattr(enrol, "HEAD_KEY", head_record.parent / "head-key")
    with pytest.raises(ClusterError, match=r"head-key.pub: run cluster-setup.sh"):
        enrol.Enroller(Reader(), {}).turn(0.0)
