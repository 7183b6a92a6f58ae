"""A cluster on a make-believe AWS, from nothing to nothing, by the real Terraform and provider."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dto.cluster.sources import from_terraform
from tests.cloud.aws_account import Account, tags
from tests.cloud.moto import environment, moto_server
from tests.cloud.terraform import Terraform, copy_root
from tests.cloud.terraform import environment as clean

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7r8nXl0Zb3mF0ZkZ0O2v0n5h1u2Jq3h0b4p8wR9tKX me"
# moto has no placement groups; Terraform's tests with mocks cover them
ANSWERS = f"""
cluster_name = "lab"
region = "eu-north-1"
instance_type = "p4d.24xlarge"
instance_count = 2
allowed_cidr_blocks = ["203.0.113.7/32"]
ssh_public_key = "{KEY}"
placement_group_strategy = "none"
use_secrets_manager = true
secret_recovery_window_days = 0
"""
SECRET = "a-secret-that-no-file-may-hold"


@pytest.fixture
def url() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def root(tmp_path: Path, url: str) -> Terraform:
    """The root that users apply, with the five answers."""
    folder = copy_root("aws", tmp_path / "terraform")
    (folder / "terraform.tfvars").write_text(ANSWERS)
    terraform = Terraform(folder, {**environment(url), "TF_VAR_secret_value": SECRET})
    terraform.init("-lockfile=readonly")
    return terraform


def interrupt_apply(terraform: Terraform) -> None:
    """Press Ctrl-C when the first resource is there, as an operator whose patience has ended."""
    process = subprocess.Popen(
        ["terraform", "apply", "-auto-approve", "-input=false", "-no-color"],
        cwd=terraform.folder, env=clean(terraform.environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if "aws_vpc.this" in line and "Creation complete" in line:
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
    assert process.returncode != 0, "the apply ended before it could be interrupted"


def no_changes(terraform: Terraform) -> None:
    plan = terraform.run("plan", "-detailed-exitcode")
    assert plan.returncode == 0, f"not the same as what was applied:\n{plan.stdout}{plan.stderr}"
    assert "No changes." in plan.stdout


def test_a_cluster_comes_grows_heals_shrinks_and_leaves_nothing(
    root: Terraform, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    account = Account(url)
    before = account.holdings()
    scaling = account.client("autoscaling")

    interrupt_apply(root)
    root.apply()
    made = [line for line in root.must("state", "list").stdout.split() if ".data." not in line]
    no_changes(root)
    assert len(account.nodes()) == 2
    assert list(account.untagged("lab", before)) == []
    the_record_is_one_that_dto_reads(root)
    the_secret_is_with_aws_alone(root, account)
    the_start_script_is_one_that_cloud_init_reads(account)

    root.apply("-var=instance_count=3")
    scaling.set_desired_capacity(AutoScalingGroupName="lab-gpu", DesiredCapacity=3)
    assert len(account.nodes()) == 3
    gone = account.nodes()[0]
    scaling.terminate_instance_in_auto_scaling_group(
        InstanceId=gone, ShouldDecrementDesiredCapacity=False
    )
    assert len(account.nodes()) == 3 and gone not in account.nodes()
    scaling.set_desired_capacity(AutoScalingGroupName="lab-gpu", DesiredCapacity=0)
    assert account.nodes() == []
    no_changes_to_three(root)

    done = root.destroy("-var=instance_count=3")
    left = account.holdings() - before
    assert left == set()
    destroyed = re.search(r"Destroy complete! Resources: (\d+) destroyed", done.stdout)
    assert destroyed and int(destroyed[1]) == len(made)
    with capsys.disabled():
        made_and_left = f"{len(made)} resources created, {len(left)} left after destroy"
        print(f"\nAWS (moto): {made_and_left}; second plan: No changes")


def no_changes_to_three(root: Terraform) -> None:
    """No node is wanted for now, and Terraform does not want them back."""
    file = root.folder / "terraform.tfvars"
    file.write_text(ANSWERS.replace("instance_count = 2", "instance_count = 3"))
    no_changes(root)


def the_record_is_one_that_dto_reads(root: Terraform) -> None:
    record = from_terraform(root.folder)
    assert (record.name, record.provider, record.region) == ("lab", "aws", "eu-north-1")
    assert (
        record.head.public_address and record.ssh.bastion == f"ubuntu@{record.head.public_address}"
    )
    assert record.groups["gpu"].gpus == 8 and record.groups["gpu"].gpu_type == "a100"
    assert (record.shared.kind, record.shared.path) == ("efs", "/shared")
    assert (
        record.cloud.scaling_group == "lab-gpu" and record.cloud.host_keys == "/dto/lab/host-keys"
    )
    outputs = root.output()
    assert outputs["total_gpus"] == 16 and outputs["worker_nodes"]["efa_cards"] == 4
    assert "PRIVATE KEY" not in (root.folder / "terraform.tfstate").read_text()


def the_secret_is_with_aws_alone(root: Terraform, account: Account) -> None:
    name = root.output()["secret_name"]
    assert (
        account.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"] == SECRET
    )
    holders = [path for path in root.folder.rglob("*tfstate*") if SECRET in path.read_text()]
    assert holders == []


def the_start_script_is_one_that_cloud_init_reads(account: Account) -> None:
    node = next(one for one in account.instances() if tags(one).get("dto:role") == "node")
    assert tags(node)["Name"] == "lab-gpu" and tags(node)["dto:group"] == "gpu"
    answer = account.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=account.client("ec2").describe_launch_templates()["LaunchTemplates"][0][
            "LaunchTemplateId"
        ]
    )
    data = answer["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    script = base64.b64decode(data["UserData"])
    assert len(script) < 16 * 1024
    assert script.startswith(b"## template: jinja\n#cloud-config\n")
    files = {one["path"]: one for one in yaml.safe_load(script)["write_files"]}
    helper = base64.b64decode(files["/usr/local/sbin/dto-aws"]["content"])
    compile(helper, "dto-aws", "exec")
    assert [card["InterfaceType"] for card in data["NetworkInterfaces"]] == ["efa"] * 4


def test_a_cluster_that_is_there_gets_a_zone_more_and_gives_it_back(
    root: Terraform, url: str
) -> None:
    account = Account(url)
    answers = ANSWERS.replace("p4d.24xlarge", "g5.xlarge")  # moto has p4d in one zone alone
    (root.folder / "terraform.tfvars").write_text(f"{answers}enable_efa = false\n")
    root.apply()
    more = '-var=additional_zones={"eu-north-1c"="10.42.128.0/20"}'
    # the template and the group change in their places; nothing that is there is made anew
    assert "Plan: 3 to add, 2 to change, 0 to destroy." in root.must("plan", more).stdout
    root.apply(more)
    assert zones_of(account) == {"eu-north-1b", "eu-north-1c"}
    (group,) = account.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert group["SuspendedProcesses"][0]["ProcessName"] == "AZRebalance"
    assert "No changes." in root.must("plan", more).stdout
    root.apply()
    assert zones_of(account) == {"eu-north-1b"}
    root.destroy()


def zones_of(account: Account) -> set[str]:
    """Where the group may start nodes."""
    (group,) = account.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    wanted = group["VPCZoneIdentifier"].split(",")
    found = account.client("ec2").describe_subnets(SubnetIds=wanted)["Subnets"]
    return {one["AvailabilityZone"] for one in found}
