"""`dto cluster plan|up|cost|drift|down` on terraform/aws, as it is, against a make-believe AWS."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dto.cluster.cloud.aws import with_nodes
from dto.cluster.sources import from_terraform
from tests.cloud import moto
from tests.cloud.operator import BUCKET_ROOT, SMALL, Operator
from tests.cloud.terraform import copy_root
from tests.helpers import start_dto, wait_for
from tests.unit.cluster_records import public_key

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]

OURS = [{"Name": "tag:dto:cluster", "Values": ["fern"]}]


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto.moto_server() as url:
        yield url


def variables(operator: Operator, name: str, **more: str) -> list[str]:
    image = operator.image()
    values = {**SMALL, "cluster_name": name, "ami_id": image, "head_ami_id": image, **more}
    values["ssh_public_key"] = public_key()
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

    _interrupt_an_up(operator, given, tmp_path / "up.log")
    # nobody repeats what was said: the answers are remembered
    made = operator.type("up", "--no-setup", "--yes")
    assert made.returncode == 0, made.stderr
    assert "head  m6i.large  1      0.25        0.25" in made.stdout
    assert len(_machines(operator)) == 3
    assert len(operator.client("ec2").describe_vpcs(Filters=OURS)["Vpcs"]) == 1

    _nodes_come_with_their_host_keys(operator)
    _drift_is_seen(operator)

    # an apply that is interrupted may lose sight of what it was just making: the search finds it
    gone = operator.type("down", "--yes", "--sweep")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert gone.stdout.splitlines()[-1] == f"nothing is left of cluster fern in {moto.REGION}"
    assert not _machines(operator)


def _interrupt_an_up(operator: Operator, given: list[str], log: Path) -> None:
    """Press Ctrl-C when the first things exist: terraform puts down what it has, and says so."""
    first = start_dto("cluster", "up", "--no-setup", "--yes", *given,
                      cwd=operator.folder, log=log, env=operator.environment)  # fmt: skip
    ec2 = operator.client("ec2")
    wait_for(lambda: ec2.describe_vpcs(Filters=OURS)["Vpcs"], timeout=180, every=0.3)
    first.send_signal(signal.SIGINT)
    assert first.wait(180) == 130, log.read_text()
    assert "`dto cluster up` goes on" in log.read_text().splitlines()[-1]
    assert not _machines(operator)


def _drift_is_seen(operator: Operator) -> None:
    calm = operator.type("drift")
    assert calm.returncode == 0, calm.stdout + calm.stderr
    assert "no drift" in calm.stdout
    ec2 = operator.client("ec2")
    named = [*OURS, {"Name": "group-name", "Values": ["*ssh*"]}]
    (group,) = ec2.describe_security_groups(Filters=named)["SecurityGroups"]
    ec2.create_tags(Resources=[group["GroupId"]], Tags=[{"Key": "environment", "Value": "x"}])
    drifted = operator.type("drift", "--json")
    assert drifted.returncode == 1, drifted.stderr
    (found,) = json.loads(drifted.stdout)["differences"]
    assert "aws_security_group.ssh was changed by somebody else" in found["text"]


def _nodes_come_with_their_host_keys(operator: Operator) -> None:
    """What `setup --from-terraform` reads; it is not run: moto's addresses are this machine's."""
    *published, silent = sorted(_machines(operator))
    ssm = operator.client("ssm")
    for number, one in enumerate(published):
        key = public_key(number)
        ssm.put_parameter(Name=f"/dto/fern/host-keys/{one}", Value=key, Type="String")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in operator.environment.items():
            patched.setenv(name, value)
        applied = from_terraform(operator.folder)
        record, missing = with_nodes(applied, 0.5, lambda text: None)
    assert len(missing) == 1 and "has not published its host key" in missing[0]
    assert silent == applied.head.instance_id or silent in missing[0]
    known = [node for node in record.nodes if node.instance_id in published]
    assert list(record.nodes) == known and applied.nodes == ()
    assert all(node.gpus == 1 and record.host_keys[node.address] for node in known)


def _machines(operator: Operator) -> list[str]:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    found = operator.client("ec2").describe_instances(Filters=states + OURS)["Reservations"]
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
    pair = {"Key": "dto:cluster", "Value": name}
    subnet = _network(operator, name, pair)
    _compute(operator, name, pair, subnet)
    operator.client("efs").create_file_system(CreationToken=name, Tags=[pair])
    ssm = operator.client("ssm")
    ssm.put_parameter(Name=f"/dto/{name}/host-keys/i-1", Value="x", Type="String")
    s3 = operator.client("s3")
    place = {"LocationConstraint": moto.REGION}
    s3.create_bucket(Bucket=f"{name}-left", CreateBucketConfiguration=place)
    s3.put_bucket_tagging(Bucket=f"{name}-left", Tagging={"TagSet": [pair]})
    s3.put_object(Bucket=f"{name}-left", Key="x", Body=b"x")
    _role(operator, name, pair)


def _tags(kind: str, pair: dict[str, str]) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [pair]}]


def _network(operator: Operator, name: str, pair: dict[str, str]) -> str:
    ec2 = operator.client("ec2")
    made = ec2.create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=_tags("vpc", pair))
    vpc = made["Vpc"]["VpcId"]
    made = ec2.create_subnet(
        VpcId=vpc, CidrBlock="10.9.0.0/24", TagSpecifications=_tags("subnet", pair)
    )
    subnet = made["Subnet"]["SubnetId"]
    gateway = ec2.create_internet_gateway(TagSpecifications=_tags("internet-gateway", pair))
    gateway_id = gateway["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway_id, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc, TagSpecifications=_tags("route-table", pair))
    ec2.associate_route_table(RouteTableId=table["RouteTable"]["RouteTableId"], SubnetId=subnet)
    groups = [
        ec2.create_security_group(
            GroupName=f"{name}-{i}", Description="x", VpcId=vpc,
            TagSpecifications=_tags("security-group", pair),
        )["GroupId"]
        for i in range(2)
    ]  # fmt: skip
    for one, other in (groups, reversed(groups)):  # they name each other
        pairs = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": other}]}]
        ec2.authorize_security_group_ingress(GroupId=one, IpPermissions=pairs)
    ec2.create_network_interface(
        SubnetId=subnet, Groups=groups[:1], TagSpecifications=_tags("network-interface", pair)
    )
    address = ec2.allocate_address(Domain="vpc", TagSpecifications=_tags("elastic-ip", pair))
    ec2.create_nat_gateway(
        SubnetId=subnet,
        AllocationId=address["AllocationId"],
        TagSpecifications=_tags("natgateway", pair),
    )
    return str(subnet)


def _compute(operator: Operator, name: str, pair: dict[str, str], subnet: str) -> None:
    ec2 = operator.client("ec2")
    ec2.create_volume(
        AvailabilityZone=f"{moto.REGION}a", Size=1, TagSpecifications=_tags("volume", pair)
    )
    ec2.create_placement_group(
        GroupName=f"{name}-gpu",
        Strategy="cluster",
        TagSpecifications=_tags("placement-group", pair),
    )
    template = ec2.create_launch_template(
        LaunchTemplateName=f"{name}-node",
        TagSpecifications=_tags("launch-template", pair),
        LaunchTemplateData={"ImageId": operator.image(), "InstanceType": "g5.xlarge"},
    )["LaunchTemplate"]["LaunchTemplateId"]
    operator.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=f"{name}-gpu", MinSize=0, MaxSize=2, DesiredCapacity=1,
        VPCZoneIdentifier=subnet,
        LaunchTemplate={"LaunchTemplateId": template, "Version": "$Latest"},
        Tags=[{**pair, "PropagateAtLaunch": True}],
    )  # fmt: skip


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
