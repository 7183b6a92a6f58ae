"""`dto cluster plan|up|cost|drift|down` on terraform/aws, as it is, against a make-believe AWS."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud import moto
from tests.cloud.operator import BUCKET_ROOT, SMALL, Operator
from tests.cloud.terraform import copy_root
from tests.helpers import start_dto, wait_for

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0i5Rj9zN3z0GzqLqS6X5gVqfJ8m8m8m8m8m8m8m8m8 x"


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto.moto_server() as url:
        yield url


def variables(operator: Operator, name: str, **more: str) -> list[str]:
    image = operator.image()
    values = {**SMALL, "cluster_name": name, "ami_id": image, "head_ami_id": image, **more}
    values["ssh_public_key"] = PUBLIC_KEY
    return [f"--var={key}={value}" for key, value in values.items()]


def test_a_cluster_is_priced_made_after_an_interruption_watched_and_gone(
    aws: str, tmp_path: Path
) -> None:
    root = copy_root("aws", tmp_path / "terraform")
    operator = Operator(root, aws)
    given = variables(operator, "fern")

    asked = operator.type("cost", "--json", *given)
    assert asked.returncode == 0, asked.stderr
    estimate = json.loads(asked.stdout)["estimate"]
    assert (estimate["hourly"], estimate["unknown"]) == (3.25, [])
    assert estimate["budget"]["hours_left"] == 200

    # interrupted when the first things exist: terraform puts down what it has, and says so
    log = tmp_path / "up.log"
    first = start_dto("cluster", "up", "--no-setup", "--yes", *given,
                      cwd=root, log=log, env=operator.environment)  # fmt: skip
    ours = [{"Name": "tag:dto:cluster", "Values": ["fern"]}]
    ec2 = operator.client("ec2")
    wait_for(lambda: ec2.describe_vpcs(Filters=ours)["Vpcs"], timeout=180, every=0.3)
    first.send_signal(signal.SIGINT)
    assert first.wait(180) == 130, log.read_text()
    assert "`dto cluster up` goes on" in log.read_text().splitlines()[-1]
    assert not _machines(operator)

    # nobody repeats what was said: the answers are remembered
    made = operator.type("up", "--no-setup", "--yes")
    assert made.returncode == 0, made.stderr
    assert "head  m6i.large  1      0.25        0.25" in made.stdout
    assert len(_machines(operator)) == 3
    assert len(ec2.describe_vpcs(Filters=ours)["Vpcs"]) == 1

    calm = operator.type("drift")
    assert calm.returncode == 0, calm.stdout + calm.stderr
    assert "no drift" in calm.stdout

    groups = ec2.describe_security_groups(
        Filters=[*ours, {"Name": "group-name", "Values": ["*ssh*"]}]
    )["SecurityGroups"]
    ec2.create_tags(Resources=[groups[0]["GroupId"]], Tags=[{"Key": "environment", "Value": "x"}])
    drifted = operator.type("drift", "--json")
    assert drifted.returncode == 1, drifted.stderr
    texts = [one["text"] for one in json.loads(drifted.stdout)["differences"]]
    assert len(texts) == 1 and "aws_security_group.ssh was changed by somebody else" in texts[0]

    # an apply that is interrupted may lose sight of what it was just making: the search finds it
    gone = operator.type("down", "--yes", "--sweep")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert gone.stdout.splitlines()[-1] == f"nothing is left of cluster fern in {moto.REGION}"
    assert not _machines(operator)


def _machines(operator: Operator) -> list[str]:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    tagged = [{"Name": "tag:dto:cluster", "Values": ["fern"]}]
    found = operator.client("ec2").describe_instances(Filters=states + tagged)["Reservations"]
    return [one["InstanceId"] for part in found for one in part["Instances"]]


def test_a_bucket_with_something_in_it_goes_only_when_said(aws: str, tmp_path: Path) -> None:
    operator = Operator(tmp_path, aws)
    operator.make_root(BUCKET_ROOT)
    given = ["--var=cluster_name=moss", f"--var=region={moto.REGION}"]
    made = operator.type("up", "--no-setup", "--yes", *given)
    assert made.returncode == 0, made.stderr
    s3, ec2 = operator.client("s3"), operator.client("ec2")
    s3.put_object(Bucket="moss-bucket", Key="step-1", Body=b"weights")
    record = _set_up_once(operator, "moss")

    silent = operator.type("down", "--yes")
    assert silent.returncode == 2
    assert "bucket moss-bucket is not empty: say --keep-data or --delete-data" in silent.stderr
    # yes to the machines, yes to the bucket, but no where its jobs cannot be asked to save
    code, said = operator.answer("y\ny\nn\n", "down")
    assert code == 1 and "nothing was changed" in said, said
    assert "delete what is in it for good?" in said
    assert "the head cannot be asked" in said and "what runs there is lost: go on?" in said
    assert len(_disks(ec2)) == 1

    kept = operator.type("down", "--yes", "--keep-data")
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert "bucket moss-bucket stays and is billed" in kept.stdout
    assert "the head cannot be asked" in kept.stderr
    assert s3.get_bucket_versioning(Bucket="moss-bucket")["Status"] == "Enabled"
    assert s3.get_object(Bucket="moss-bucket", Key="step-1")["Body"].read() == b"weights"
    assert not _disks(ec2)
    assert not record.exists()


def _disks(ec2: Any) -> list[Any]:
    wanted = [{"Name": "tag:dto:cluster", "Values": ["moss"]}]
    return list(ec2.describe_volumes(Filters=wanted)["Volumes"])


def _set_up_once(operator: Operator, name: str) -> Path:
    """Leave what a setup would have left here; nobody answers at the head's place."""
    path = Path(os.environ["HOME"]) / ".local/state/dto/clusters" / name / "record.yaml"
    path.parent.mkdir(parents=True)
    head = {"name": f"{name}-head", "address": "127.0.0.1"}
    path.write_text(json.dumps({"name": name, "ssh": {"port": 1}, "head": head}))
    return path


def test_what_is_left_without_a_state_is_found_and_swept(aws: str, tmp_path: Path) -> None:
    operator = Operator(tmp_path, aws)
    make_leftovers(operator, "reed")
    make_leftovers(operator, "sedge")
    where = ("--cluster-name", "reed", "--region", moto.REGION)
    found = operator.type("down", *where)
    assert found.returncode == 1, found.stderr
    kinds = {line.removeprefix("left: ").rsplit(" ", 1)[0] for line in found.stdout.splitlines()}
    assert {"volume", "VPC", "subnet", "bucket", "placement group", "EFS"} <= kinds, found.stdout
    assert "sedge" not in found.stdout

    careful = operator.type("down", *where, "--sweep", "--yes")
    assert careful.returncode == 2
    assert "may hold data: say --keep-data or --delete-data" in careful.stderr
    swept = operator.type("down", *where, "--sweep", "--yes", "--delete-data")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert f"nothing is left of cluster reed in {moto.REGION}" in swept.stdout
    wanted = [{"Name": "tag:dto:cluster", "Values": ["sedge"]}]
    assert len(operator.client("ec2").describe_vpcs(Filters=wanted)["Vpcs"]) == 1


def make_leftovers(operator: Operator, name: str) -> None:
    """One of everything that can be left, each with the cluster's tag alone."""
    ec2 = operator.client("ec2")
    pair = {"Key": "dto:cluster", "Value": name}

    def tags(kind: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [pair]}]

    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=tags("vpc"))["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(
        VpcId=vpc, CidrBlock="10.9.0.0/24", TagSpecifications=tags("subnet")
    )["Subnet"]["SubnetId"]
    gateway = ec2.create_internet_gateway(TagSpecifications=tags("internet-gateway"))
    gateway_id = gateway["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway_id, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc, TagSpecifications=tags("route-table"))
    ec2.associate_route_table(RouteTableId=table["RouteTable"]["RouteTableId"], SubnetId=subnet)
    groups = [
        ec2.create_security_group(
            GroupName=f"{name}-{i}", Description="x", VpcId=vpc,
            TagSpecifications=tags("security-group"),
        )["GroupId"]
        for i in range(2)
    ]  # fmt: skip
    for one, other in (groups, reversed(groups)):  # they name each other
        pairs = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": other}]}]
        ec2.authorize_security_group_ingress(GroupId=one, IpPermissions=pairs)
    ec2.create_network_interface(
        SubnetId=subnet, Groups=groups[:1], TagSpecifications=tags("network-interface")
    )
    address = ec2.allocate_address(Domain="vpc", TagSpecifications=tags("elastic-ip"))
    ec2.create_nat_gateway(
        SubnetId=subnet, AllocationId=address["AllocationId"], TagSpecifications=tags("natgateway")
    )
    ec2.create_volume(AvailabilityZone=f"{moto.REGION}a", Size=1, TagSpecifications=tags("volume"))
    ec2.create_placement_group(
        GroupName=f"{name}-gpu", Strategy="cluster", TagSpecifications=tags("placement-group")
    )
    template = ec2.create_launch_template(
        LaunchTemplateName=f"{name}-node", TagSpecifications=tags("launch-template"),
        LaunchTemplateData={"ImageId": operator.image(), "InstanceType": "g5.xlarge"},
    )["LaunchTemplate"]["LaunchTemplateId"]  # fmt: skip
    operator.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=f"{name}-gpu", MinSize=0, MaxSize=2, DesiredCapacity=1,
        VPCZoneIdentifier=subnet,
        LaunchTemplate={"LaunchTemplateId": template, "Version": "$Latest"},
        Tags=[{**pair, "PropagateAtLaunch": True}],
    )  # fmt: skip
    operator.client("efs").create_file_system(CreationToken=name, Tags=[pair])
    ssm = operator.client("ssm")
    ssm.put_parameter(Name=f"/dto/{name}/host-keys/i-1", Value="x", Type="String")
    s3 = operator.client("s3")
    place = {"LocationConstraint": moto.REGION}
    s3.create_bucket(Bucket=f"{name}-left", CreateBucketConfiguration=place)
    s3.put_bucket_tagging(Bucket=f"{name}-left", Tagging={"TagSet": [pair]})
    s3.put_object(Bucket=f"{name}-left", Key="x", Body=b"x")
    _role(operator, name, pair)


def _role(operator: Operator, name: str, pair: dict[str, str]) -> None:
    iam = operator.client("iam")
    iam.create_role(RoleName=f"{name}-head-1", AssumeRolePolicyDocument="{}", Tags=[pair])
    allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_role_policy(RoleName=f"{name}-head-1", PolicyName="x", PolicyDocument=policy)
    iam.create_instance_profile(InstanceProfileName=f"{name}-head-1", Tags=[pair])
    iam.add_role_to_instance_profile(
        InstanceProfileName=f"{name}-head-1", RoleName=f"{name}-head-1"
    )
