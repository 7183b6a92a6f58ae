"""terraform/nebius for real, on a stub of its provider: made, grown, replaced, gone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dto.cluster.sources import from_terraform
from tests.cloud.nebius.cluster import EIGHT, FIVE, ONE, Nebius, plain
from tests.helpers import dto

pytestmark = pytest.mark.cloud

EIGHT_GPUS = {"instance_type": EIGHT, "infiniband_fabric": "fabric-3"}


@pytest.mark.timeout(300)
def test_a_cluster_is_made_grows_shrinks_and_leaves_nothing(tmp_path: Path) -> None:
    nebius = Nebius(tmp_path)
    nebius.terraform.init()
    nebius.terraform.validate()
    assert "18 added" in nebius.apply(**EIGHT_GPUS)
    assert "No changes." in nebius.plan(**EIGHT_GPUS)

    # a machine and its disk, and nothing else is touched
    assert "2 to add, 0 to change, 0 to destroy" in nebius.plan(**EIGHT_GPUS, instance_count=3)
    nebius.apply(**EIGHT_GPUS, instance_count=3)
    machines = nebius.existing("compute_v1_instance")
    assert sorted(machines) == ["lab-001", "lab-002", "lab-003", "lab-head"]
    disks = {machine["boot_disk"]["existing_disk"]["id"] for machine in machines.values()}
    assert len(disks) == 4
    shared = {
        machine["filesystems"][0]["existing_filesystem"]["id"] for machine in machines.values()
    }
    assert len(shared) == 1

    shrunk = nebius.apply(**EIGHT_GPUS)
    assert "0 added, 0 changed, 2 destroyed" in shrunk
    assert sorted(nebius.existing("compute_v1_instance")) == ["lab-001", "lab-002", "lab-head"]

    nebius.terraform.destroy(*nebius.given(**EIGHT_GPUS))
    assert nebius.existing() == {}


def test_the_record_is_read_by_dto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nebius = Nebius(tmp_path)
    nebius.terraform.init()
    more = {
        "capacity_type": "spot",
        "head_service_account_id": "serviceaccount-e00head",
        "prices": {f"{EIGHT}-spot": 12.5, "cpu-d3/4vcpu-16gb": 0.1},
        "budget": {"amount": 100, "idle_minutes": 30},
        "node_groups": {"gpu": {"max_time": "2-00:00:00", "features": ["h100"]}},
    }
    nebius.apply(**EIGHT_GPUS, **more)
    for name, value in nebius.terraform.environment.items():
        monkeypatch.setenv(name, value)
    record = from_terraform(nebius.folder)
    outputs = nebius.terraform.output()

    assert (record.name, record.provider, record.region) == ("lab", "nebius", "eu-north1")
    assert record.head.name == "lab-head"
    assert record.head.public_address == outputs["master_public_ip"]
    assert [node.name for node in record.nodes] == ["lab-001", "lab-002"]
    assert {(node.gpus, node.gpu_type, node.group, node.spot) for node in record.nodes} == {
        (8, "h100", "gpu", True)
    }
    assert all("/" not in node.address and node.instance_type == EIGHT for node in record.nodes)
    assert record.groups["gpu"].max_time == "2-00:00:00"
    assert record.groups["gpu"].features == ("spot", "infiniband", "h100")
    assert (record.shared.kind, record.shared.source) == ("virtiofs", "shared")
    assert record.shared.path == "/mnt/filesystem"
    assert record.ssh.bastion == f"ubuntu@{outputs['master_public_ip']}"
    assert record.ssh.key == str(nebius.key).removesuffix(".pub")
    assert record.power.off == "/usr/local/lib/dto/cloud-power off nebius {instance_id}"
    assert record.prices == {f"{EIGHT}-spot": 12.5, "cpu-d3/4vcpu-16gb": 0.1}
    assert (record.budget.amount, record.budget.hours, record.budget.idle_minutes) == (
        100,
        None,
        30,
    )
    assert (record.cloud.account, record.bucket) == (FIVE["project_id"], "lab-project-e00test")
    assert (outputs["total_gpus"], outputs["worker_public_ips"]) == (16, [])
    assert len(outputs["instance_ids"]) == 3


def test_dto_prices_a_plan_before_anything_is_made(tmp_path: Path) -> None:
    nebius = Nebius(tmp_path)
    said = {**FIVE, "vm_ssh_public_key_path": str(nebius.key), "auth": "token"}
    said["prices"] = {ONE: 3, "cpu-d3/4vcpu-16gb": 0.1}
    (nebius.folder / "lab.auto.tfvars.json").write_text(json.dumps(said))
    env = {**os.environ, **nebius.terraform.environment, "NEBIUS_IAM_TOKEN": "a-token-of-a-test"}
    done = dto("cluster", "plan", "--json", nebius.folder, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["estimate"]["hourly"] == 6.1, found
    assert nebius.existing() == {}


def test_spot_nodes_are_preemptible_and_the_head_is_not(tmp_path: Path) -> None:
    nebius = Nebius(tmp_path)
    nebius.terraform.init()
    nebius.apply(capacity_type="spot", create_s3_bucket=False)
    machines = nebius.existing("compute_v1_instance")
    head = machines.pop("lab-head")
    assert (head["preemptible"], head["recovery_policy"]) == (None, None)
    for node in machines.values():
        assert node["preemptible"]["on_preemption"] == "STOP"
        assert node["recovery_policy"] == "FAIL"
        assert node["gpu_cluster"] is None
    assert nebius.existing("compute_v1_gpu_cluster") == nebius.existing("storage_v1_bucket") == {}


def test_only_ssh_from_the_networks_named_and_the_cluster_itself_come_in(tmp_path: Path) -> None:
    nebius = Nebius(tmp_path)
    nebius.terraform.init()
    many = [f"198.51.100.{number}/32" for number in range(10)]
    nebius.apply(allowed_cidr_blocks=many, instance_count=1)
    groups = {g["name"]: g["id"] for g in nebius.existing("vpc_v1_security_group").values()}
    rules = nebius.existing("vpc_v1_security_rule").values()
    outside = [rule["ingress"] for rule in rules if (rule["ingress"] or {}).get("source_cidrs")]
    assert sorted(cidr for one in outside for cidr in one["source_cidrs"]) == sorted(many)
    assert all(one["destination_ports"] == [22] for one in outside)
    inside = [
        rule["ingress"] for rule in rules if rule["ingress"] and rule["ingress"] not in outside
    ]
    assert [one["source_security_group_id"] for one in inside] == [groups["lab-members"]]
    assert any(
        (rule["egress"] or {}).get("destination_security_group_id") == groups["lab-members"]
        for rule in rules
    )
    (card,) = nebius.existing("compute_v1_instance")["lab-001"]["network_interfaces"]
    assert card["public_ip_address"] is None
    assert [group["id"] for group in card["security_groups"]] == [groups["lab-members"]]


def test_what_somebody_took_away_is_made_again_and_no_disk_is_pulled_from_a_machine(
    tmp_path: Path,
) -> None:
    nebius = Nebius(tmp_path)
    nebius.terraform.init()
    nebius.apply()
    gone = nebius.existing("compute_v1_instance")["lab-001"]["id"]
    nebius.forget(gone)
    assert "1 added, 0 changed, 0 destroyed" in nebius.apply()

    before = nebius.existing("compute_v1_instance")
    assert "4 added, 0 changed, 4 destroyed" in nebius.apply(image_family="ubuntu24.04-cuda13.0")
    after = nebius.existing("compute_v1_instance")
    assert after["lab-head"] == before["lab-head"]
    assert after["lab-001"]["id"] != before["lab-001"]["id"]
    # a platform cannot be changed on a machine; its disk stays
    again = nebius.plan(
        image_family="ubuntu24.04-cuda13.0", instance_type=ONE.replace("h100", "h200")
    )
    assert "2 to add, 0 to change, 2 to destroy" in again


def test_an_apply_that_got_half_way_is_completed_by_the_next(tmp_path: Path) -> None:
    nebius = Nebius(tmp_path)
    nebius.terraform.init()
    nebius.terraform.environment["NEBIUS_STUB_NO_ROOM_FOR"] = "lab-002"
    done = nebius.terraform.run("apply", "-auto-approve", *nebius.given())
    assert done.returncode == 1
    assert "the quota is used up" in plain(done.stderr)
    assert sorted(nebius.existing("compute_v1_instance")) == ["lab-001", "lab-head"]
    del nebius.terraform.environment["NEBIUS_STUB_NO_ROOM_FOR"]
    assert "1 added, 0 changed, 0 destroyed" in nebius.apply()
    assert "No changes." in nebius.plan()


def test_a_subnet_that_exists_is_used_and_left(tmp_path: Path) -> None:
    theirs, ours = Nebius(tmp_path / "theirs"), Nebius(tmp_path / "ours")
    ours._store = theirs._store
    ours.terraform.environment["NEBIUS_STUB_STORE"] = str(theirs._store)
    for one in (theirs, ours):
        one.terraform.init()
    theirs.apply(private_subnet_cidr="10.20.0.0/20", instance_count=1)
    subnet = theirs.existing("vpc_v1_subnet")["lab"]
    mine = {"cluster_name": "two", "create_vpc": False, "existing_private_subnet_id": subnet["id"]}
    ours.apply(**mine)
    outputs = ours.terraform.output()
    assert (outputs["private_subnet_id"], outputs["vpc_id"]) == (subnet["id"], subnet["network_id"])
    assert outputs["dto_cluster"]["head"]["address"].startswith("10.20.0.")
    ours.terraform.destroy(*ours.given(**mine))
    assert list(theirs.existing("vpc_v1_subnet")) == ["lab"]


@pytest.mark.parametrize("example", ["smallest", "spot", "single-gpu"])
def test_the_examples_apply(tmp_path: Path, example: str) -> None:
    nebius = Nebius(tmp_path, f"examples/nebius-{example}")
    nebius.terraform.init()
    said = {"project_id": "project-e00test", "allowed_cidr_blocks": FIVE["allowed_cidr_blocks"]}
    left_out = dict.fromkeys(("cluster_name", "instance_type", "instance_count"))
    if example == "spot":
        said["head_service_account_id"] = "serviceaccount-e00head"
    nebius.apply(**left_out, **said)
    record = nebius.terraform.output()["dto_cluster"]
    assert [node["gpus"] for node in record["nodes"]] == {
        "smallest": [0, 0], "spot": [8, 8], "single-gpu": [1]
    }[example]  # fmt: skip
    assert len(nebius.existing("compute_v1_gpu_cluster")) == (example == "spot")
