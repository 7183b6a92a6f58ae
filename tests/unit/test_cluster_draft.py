"""What a second command makes of a cluster: nothing is lost, nothing is doubled."""

from __future__ import annotations

from typing import Any

import pytest

from dto.cluster.draft import draft_from_flags, draft_from_record, draft_join, known_names
from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.sources import flag_values
from dto.errors import ConfigError
from tests.unit.cluster_records import public_key

WORKERS = "10.0.0.2 10.0.0.3"


def saved(**more: Any) -> DtoCluster:
    said = flag_values("lab", "10.0.0.1", WORKERS, user="ubuntu", gpus={"10.0.0.2": 2}, more=more)
    return draft_from_flags(None, said).record


def flags(before: DtoCluster, workers: str = WORKERS, **more: Any) -> dict[str, Any]:
    return flag_values("lab", "10.0.0.1", workers, names=known_names(before), **more)


def test_the_same_flags_again_give_the_same_record() -> None:
    before = saved(shared={"kind": "existing"}, host_keys={"10.0.0.2": [public_key()]})
    draft = draft_from_flags(before, flags(before, user="ubuntu", gpus={"10.0.0.2": 2}))
    assert draft.record.to_yaml() == before.to_yaml() and not draft.notes


def test_flags_that_say_less_leave_the_rest_as_it_was() -> None:
    before = saved(users=[{"name": "ada", "uid": 2001}], slurm={"settings": {"KillWait": "90"}})
    joined = draft_join(before, "10.0.0.9").record
    draft = draft_from_flags(joined, flags(joined, "10.0.0.3"))
    assert draft.record == joined


def test_a_flag_goes_before_what_was_saved_even_where_it_says_the_default() -> None:
    before = saved(
        shared={"kind": "nfs", "source": "a:/b", "path": "/data"},
        users=[{"name": "ada", "uid": 2001}],
        slurm={"settings": {"KillWait": "90"}, "accounting": True},
    )
    more = {
        "shared": {"kind": "existing"},
        "users": [{"name": "ben", "uid": 2002}, {"name": "ada", "uid": 2001, "sudo": True}],
        "slurm": {"settings": {"SlurmdTimeout": "30"}, "accounting": False},
    }
    after = draft_from_flags(before, flags(before, user="root", more=more)).record
    assert after.ssh.user == "root" and not after.slurm.accounting
    assert after.shared.kind == "existing" and after.shared.source is None
    assert [(user.name, user.sudo) for user in after.users] == [("ada", True), ("ben", False)]
    assert after.slurm.settings == {"KillWait": "90", "SlurmdTimeout": "30"}


def test_a_node_joins_once() -> None:
    before = saved()
    once = draft_join(before, "10.0.0.9", gpus=4)
    assert [node.name for node in once.record.nodes] == ["lab-001", "lab-002", "lab-003"]
    assert once.record.nodes[2].group == "gpu" and not once.notes
    assert draft_join(once.record, "10.0.0.9", gpus=4).record == once.record
    assert draft_join(once.record, "10.0.0.9", name="other").record == once.record
    named = draft_join(before, "10.0.0.9", name="n9", local=True).record.node("n9")
    assert named.local and named.group == "cpu"


def test_a_node_with_a_new_address_is_the_same_node_and_said_so() -> None:
    before = saved(host_keys={"10.0.0.2": [public_key(1)], "10.0.0.3": [public_key(2)]})
    draft = draft_join(before, "10.0.0.9", name="lab-001")
    assert [node.address for node in draft.record.nodes] == ["10.0.0.9", "10.0.0.3"]
    assert draft.notes == ("lab-001: address 10.0.0.2 is now 10.0.0.9",)
    assert list(draft.record.host_keys) == ["10.0.0.3"]
    assert draft.record.nodes[0].gpus == 2


def test_a_head_with_a_new_address_is_the_same_head() -> None:
    before = saved()
    said = flag_values("lab", "10.0.0.77", WORKERS, names=known_names(before))
    draft = draft_from_flags(before, said)
    assert draft.record.head.address == "10.0.0.77"
    assert draft.notes == ("lab-head: address 10.0.0.1 is now 10.0.0.77",)


def test_a_cluster_keeps_its_head_and_its_name() -> None:
    before = saved()
    with pytest.raises(ConfigError, match=r"the head of cluster lab is lab-head \(10.0.0.1\), not"):
        draft_from_flags(before, flag_values("lab", "10.0.0.2", "", names=known_names(before)))
    with pytest.raises(ConfigError, match="this is cluster lab, not 'other'"):
        draft_from_flags(before, {"name": "other"})


def test_a_node_found_with_other_gpus_changes_its_group() -> None:
    before = saved()
    after = draft_from_flags(before, flags(before, gpus={"10.0.0.2": 0, "10.0.0.3": 4})).record
    assert [(node.gpus, node.group) for node in after.nodes] == [(0, "cpu"), (4, "gpu")]


def file_record(*names: str, **more: Any) -> DtoCluster:
    nodes = [{"name": name, "address": f"10.0.0.{i + 2}"} for i, name in enumerate(names)]
    head = {"name": "lab-head", "address": "10.0.0.1"}
    return parse_record({"name": "lab", "head": head, "nodes": nodes, **more}, "file")


def test_a_file_says_everything_but_takes_no_node_away() -> None:
    before = saved(users=[{"name": "ada", "uid": 2001}], host_keys={"10.0.0.3": [public_key()]})
    draft = draft_from_record(before, file_record("lab-001", region="here"))
    assert [node.name for node in draft.record.nodes] == ["lab-001", "lab-002"]
    assert draft.record.nodes[0].gpus == 0 and not draft.record.users
    assert (draft.record.ssh.user, draft.record.region) == ("root", "here")
    assert draft.record.host_keys == before.host_keys and not draft.gone


def test_a_file_that_renames_a_node_is_refused() -> None:
    with pytest.raises(ConfigError, match="10.0.0.2 is lab-001 in cluster lab, not n1; to rename"):
        draft_from_record(saved(), file_record("n1"))


def test_a_machine_that_the_cloud_replaced_is_gone() -> None:
    def cloud(*ids: str) -> DtoCluster:
        nodes = [
            {"name": f"n-{one}", "address": f"10.0.0.{10 + int(one)}", "instance_id": f"i-{one}"}
            for one in ids
        ]
        return file_record(nodes=nodes, provider="aws")

    draft = draft_from_record(cloud("1", "2"), cloud("2", "3"))
    assert [node.name for node in draft.record.nodes] == ["n-2", "n-3"]
    assert [node.name for node in draft.gone] == ["n-1"]
    assert draft.notes == ("node n-1 (i-1) is no longer there",)
