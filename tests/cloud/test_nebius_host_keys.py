"""Nodes on Nebius are known by what they left where only root reads, not at first sight."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dto.cluster import preflight
from dto.cluster.cloud import nebius, running
from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.inventory_hosts import Host as Member
from dto.cluster.session import Session
from dto.cluster.state import ClusterState
from dto.errors import ClusterError
from dto.remote.errors import HostKeyChanged, UnknownHostKey
from dto.remote.host import Host
from dto.remote.local import LocalHost
from tests.helpers import cannot
from tests.unit.test_cluster_setup import Person

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIAyHj0/VrkJhlBzIPTRrrkNrurhXnWFbcmIFXA2Kv8ap"
OTHER = "AAAAC3NzaC1lZDI1NTE5AAAAIDtoDYHFIDTFgmVbDTmIQ3OqGXTLaH0Kq4kYoWtVYTJn"


Meet = Callable[..., tuple[DtoCluster, Person]]

pytestmark = pytest.mark.cloud


class Met(Session):
    """A session whose hosts show BLOB and else are this machine, the node by another name."""

    def connect(self, member: Member, timeout: float = 15) -> Host:
        known = self.record.host_keys.get(member.address, ())
        if not known:
            raise UnknownHostKey(member.address, 22, "ssh-ed25519", BLOB, "SHA256:x")
        if f"ssh-ed25519 {BLOB}" not in known:
            raise HostKeyChanged(member.address, 22, "SHA256:x", None, 0, "look")
        return LocalHost(member.name)


def cluster(path: Path, provider: str = "nebius", **more: object) -> DtoCluster:
    node = {"name": "lab-001", "address": "10.0.0.2"}
    shared = {"kind": "virtiofs", "source": "shared", "path": str(path)}
    head = {"name": "lab-head", "address": "10.0.0.1"}
    raw = {"name": "lab", "provider": provider, "head": head, "nodes": [node], "shared": shared}
    return parse_record({**raw, **more}, "test")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if os.geteuid() != 0:
        cannot("needs root, as the head's folder does")
    monkeypatch.setattr(nebius, "WAIT_SECONDS", 0.2)
    made = tmp_path / "shared" / ".dto" / "host-keys"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def meet(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Meet:
    # all hosts are this machine here, which would itself be a reason to stop
    monkeypatch.setattr(preflight, "_refuse_same", lambda probes: None)

    def look(person: Person, **more: object) -> tuple[DtoCluster, Person]:
        record = cluster(folder.parents[1], **more)
        session, _ = Met(ClusterState("lab", tmp_path / "state"), record, person).look(
            accepts=False
        )
        return session.record, person

    return look


def test_the_head_is_confirmed_and_vouches_for_its_nodes(folder: Path, meet: Meet) -> None:
    (folder / "lab-001").write_text(f"ssh-ed25519 {BLOB} root@lab-001\nno key\n")
    record, person = meet(Person(answer=True))
    (question,) = person.asked
    assert "lab-head (10.0.0.1)" in question and "lab-001" not in question
    assert record.host_keys["10.0.0.2"][0] == f"ssh-ed25519 {BLOB}"


def test_nobody_is_asked_where_the_head_is_known(folder: Path, meet: Meet) -> None:
    (folder / "lab-001").write_text(f"ssh-ed25519 {BLOB}\n")
    record, person = meet(Person(), host_keys={"10.0.0.1": [f"ssh-ed25519 {BLOB}"]})
    assert person.asked == [] and "10.0.0.2" in record.host_keys


def test_a_node_that_shows_another_key_than_it_published_is_refused(
    folder: Path, meet: Meet
) -> None:
    (folder / "lab-001").write_text(f"ssh-ed25519 {OTHER}\n")
    with pytest.raises(HostKeyChanged):
        meet(Person(answer=True))


def test_a_node_that_published_nothing_is_asked_about(folder: Path, meet: Meet) -> None:
    _, person = meet(Person(answer=True))
    assert len(person.asked) == 2 and "lab-001 (10.0.0.2)" in person.asked[1]
    assert "waiting for the host keys of lab-001" in person.out.getvalue()
    with pytest.raises(ClusterError, match="nobody has vouched"):
        meet(Person(), host_keys={"10.0.0.1": [f"ssh-ed25519 {BLOB}"]})


def test_on_other_clouds_the_folder_says_nothing(folder: Path, meet: Meet) -> None:
    (folder / "lab-001").write_text(f"ssh-ed25519 {BLOB}\n")
    _, person = meet(Person(answer=True), provider="metal")
    assert "lab-001" in person.asked[0]


MINE = nebius.Machine("lab-002", "10.0.0.9", "gpu-h100-sxm/1gpu-16vcpu-200gb", True, "e00-a")


@pytest.fixture
def nodes(folder: Path) -> Path:
    made = folder.parent / "nodes"
    made.mkdir()
    return made


def found(nodes: Path) -> list[nebius.Machine]:
    return nebius.machines(LocalHost("lab-head"), cluster(nodes.parents[1]))


def test_the_head_finds_the_nodes_that_described_themselves(nodes: Path) -> None:
    kind = MINE.instance_type
    (nodes / "lab-002").write_text(f"10.0.0.9 {kind} spot e00-a\n")
    (nodes / "lab-1000").write_text(f"10.0.1.9 {kind} on-demand -\n")
    assert found(nodes) == [MINE, nebius.Machine("lab-1000", "10.0.1.9", kind, False)]


def test_a_machine_that_fell_silent_is_none(nodes: Path) -> None:
    (nodes / "lab-002").write_text(f"10.0.0.9 {MINE.instance_type} spot e00-a\n")
    old = time.time() - 3600
    os.utime(nodes / "lab-002", (old, old))
    assert found(nodes) == []


@pytest.mark.parametrize("name", ["lab-head", "lab-1", "other-001", "lab-001x", "lab-001.lab.new"])
def test_what_terraform_would_not_name_so_is_no_node(nodes: Path, name: str) -> None:
    (nodes / name).write_text(f"10.0.0.9 {MINE.instance_type} spot e00-a\n")
    assert found(nodes) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.9\n",
        "10.0.0.9 a/b spot\n",
        "evil.example.com a/b spot -\n",
        "127.0.0.1 a/b spot -\n",
        "10.0.0.9 a/b/c spot -\n",
        "10.0.0.9 a/b cheap -\n",
        "10.0.0.9 a/b spot a;b\n",
        "10.0.0.9 a/b spot - more\n",
        "10.0.0.9 a/b spot -\n10.0.0.8 a/b spot -\n",
    ],
)
def test_what_does_not_describe_one_machine_is_passed_over(nodes: Path, text: str) -> None:
    (nodes / "lab-001").write_text(text)
    (nodes / "lab-002").write_text(f"10.0.0.9 {MINE.instance_type} spot e00-a\n")
    assert found(nodes) == [MINE]


def test_a_cluster_whose_machines_say_nothing_has_none_to_enrol(folder: Path) -> None:
    assert nebius.machines(LocalHost("lab-head"), cluster(folder.parents[1])) == []


def test_the_head_enrols_what_said_who_it_is_and_what_was_made_anew(
    folder: Path, nodes: Path
) -> None:
    kind = MINE.instance_type
    record = cluster(folder.parents[1]).with_host_keys({"10.0.0.2": [f"ssh-ed25519 {BLOB}"]})
    (nodes / "lab-001").write_text(f"10.0.0.2 {kind} spot e00-a\n")
    (nodes / "lab-002").write_text(f"10.0.0.9 {kind} spot e00-b\n")
    (nodes / "lab-003").write_text(f"10.0.0.10 {kind} spot e00-c\n")
    (nodes / "lab-004").write_text(f"10.0.0.1 {kind} spot e00-d\n")  # the head's own address
    (folder / "lab-001").write_text(f"ssh-ed25519 {OTHER}\n")
    (folder / "lab-002").write_text(f"ssh-ed25519 {OTHER}\n")
    (folder / "lab-004").write_text(f"ssh-ed25519 {OTHER}\n")
    seen = running.seen_from(LocalHost("lab-head"), record)
    new = running.newcomers(record, seen, frozenset({"lab-001"}), frozenset())
    assert new == ["lab-001", "lab-002"]
    assert seen.record.host_keys["10.0.0.2"] == (f"ssh-ed25519 {OTHER}",)
    assert (seen.nodes["lab-002"].spot, seen.nodes["lab-002"].instance_id) == (True, "e00-b")
    silent, odd = seen.waiting
    assert silent == "lab-003 has not left its host key" and odd.startswith("lab-004")
    assert seen.gone == ()
