"""Looks everywhere on AWS for what carries a cluster's tag, with a state or without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dto.cluster.cloud.aws import TAG, client, code_of, is_of_aws, pages, words_for
from dto.cluster.cloud.sweep import Found, Leftover

PARAMETERS = "/dto/{}"
_ALIVE = ("pending", "running", "stopping", "stopped")
# kind -> (call of EC2, key of its answer, key of the id)
_EC2 = {
    "spot request": ("describe_spot_instance_requests", "SpotInstanceRequests",
                     "SpotInstanceRequestId"),
    "NAT gateway": ("describe_nat_gateways", "NatGateways", "NatGatewayId"),
    "elastic IP": ("describe_addresses", "Addresses", "AllocationId"),
    "endpoint": ("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    "launch template": ("describe_launch_templates", "LaunchTemplates", "LaunchTemplateId"),
    "network interface": ("describe_network_interfaces", "NetworkInterfaces",
                          "NetworkInterfaceId"),
    "volume": ("describe_volumes", "Volumes", "VolumeId"),
    "security group": ("describe_security_groups", "SecurityGroups", "GroupId"),
    "placement group": ("describe_placement_groups", "PlacementGroups", "GroupName"),
    "route table": ("describe_route_tables", "RouteTables", "RouteTableId"),
    "subnet": ("describe_subnets", "Subnets", "SubnetId"),
    "internet gateway": ("describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    "VPC": ("describe_vpcs", "Vpcs", "VpcId"),
    "key pair": ("describe_key_pairs", "KeyPairs", "KeyPairId"),
}  # fmt: skip
_GONE = {"deleted", "deleting", "terminated", "closed", "cancelled", "failed"}
# What is looked for by ARN alone; of what has a kind above, this listing is hours behind.
_OTHERS = ("logs", "secretsmanager", "sns", "sqs", "events", "backup")


def find(name: str, region: str) -> Found:
    """List everything in a region that is tagged dto:cluster=NAME."""
    left: list[Leftover] = []
    unseen: list[str] = []
    for kind, search in _searches(region):
        try:
            left += search(name)
        except Exception as error:
            if not is_of_aws(error):
                raise
            unseen.append(f"{kind} ({code_of(error) or words_for(error)})")
    return Found(tuple(left), tuple(unseen))


_Search = Callable[[str], list[Leftover]]


def _searches(region: str) -> Iterator[tuple[str, _Search]]:
    ec2 = client("ec2", region)
    yield "auto-scaling group", lambda name: _groups(client("autoscaling", region), name)
    yield "instance", lambda name: _instances(ec2, name)
    for kind in _EC2:
        yield kind, lambda name, kind=kind: _of_ec2(ec2, kind, name)  # type: ignore[misc]
    yield "EFS", lambda name: _filesystems(client("efs", region), "EFS", name)
    yield "FSx for Lustre", lambda name: _filesystems(client("fsx", region), "FSx for Lustre", name)
    yield "instance profile", lambda name: _profiles(client("iam", region), name)
    yield "IAM role", lambda name: _roles(client("iam", region), name)
    yield "SSM parameter", lambda name: _parameters(client("ssm", region), name)
    yield "bucket", lambda name: _buckets(client("s3", region), name)
    yield "others", lambda name: _others(client("resourcegroupstaggingapi", region), name)


def _filters(name: str) -> list[dict[str, Any]]:
    return [{"Name": f"tag:{TAG}", "Values": [name]}]


def _groups(scaling: Any, name: str) -> list[Leftover]:
    found = pages(
        scaling, "describe_auto_scaling_groups", "AutoScalingGroups", Filters=_filters(name)
    )
    return [
        Leftover("auto-scaling group", one["AutoScalingGroupName"])
        for one in found
        if one.get("Status") != "Delete in progress"
    ]


def _instances(ec2: Any, name: str) -> list[Leftover]:
    states = [{"Name": "instance-state-name", "Values": list(_ALIVE)}]
    found = pages(ec2, "describe_instances", "Reservations", Filters=_filters(name) + states)
    return [
        Leftover("instance", one["InstanceId"], f"{one['InstanceType']}, {one['State']['Name']}")
        for reservation in found
        for one in reservation["Instances"]
    ]


def _of_ec2(ec2: Any, kind: str, name: str) -> list[Leftover]:
    call, key, identity = _EC2[kind]
    word = "Filter" if kind == "NAT gateway" else "Filters"
    found = pages(ec2, call, key, **{word: _filters(name)})
    return [
        Leftover(kind, str(one[identity]))
        for one in found
        if str(one.get("State", "")).lower() not in _GONE and not _is_default(one)
    ]


def _is_default(one: Mapping[str, Any]) -> bool:
    """What AWS makes with a network and takes away with it."""
    main = any(link.get("Main") for link in one.get("Associations") or () if "Main" in link)
    return one.get("GroupName") == "default" or main


def _filesystems(api: Any, kind: str, name: str) -> list[Leftover]:
    found = pages(api, "describe_file_systems", "FileSystems")
    return [
        Leftover(kind, one["FileSystemId"])
        for one in found
        if _has_tag(one.get("Tags", ()), name)
        and str(one.get("LifeCycleState") or one.get("Lifecycle", "")).lower() not in _GONE
    ]


def _has_tag(tags: Any, name: str) -> bool:
    return any(tag.get("Key") == TAG and tag.get("Value") == name for tag in tags)


def _profiles(iam: Any, name: str) -> list[Leftover]:
    """Listings of IAM have no tags; the name narrows it down to few that are asked for theirs."""
    names = [one["InstanceProfileName"] for one in pages(
        iam, "list_instance_profiles", "InstanceProfiles")]  # fmt: skip
    return [
        Leftover("instance profile", one)
        for one in names
        if one.startswith(f"{name}-") and _has_tag(_profile(iam, one).get("Tags", ()), name)
    ]


def _profile(iam: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    return found


def _roles(iam: Any, name: str) -> list[Leftover]:
    names = [one["RoleName"] for one in pages(iam, "list_roles", "Roles")]
    return [
        Leftover("IAM role", one)
        for one in names
        if one.startswith(f"{name}-") and _has_tag(iam.list_role_tags(RoleName=one)["Tags"], name)
    ]


def _parameters(ssm: Any, name: str) -> list[Leftover]:
    """Those that hosts wrote (their keys) have a place, not a tag."""
    filters = [{"Key": f"tag:{TAG}", "Values": [name]}]
    found = pages(ssm, "describe_parameters", "Parameters", ParameterFilters=filters)
    found += pages(
        ssm, "get_parameters_by_path", "Parameters", Path=PARAMETERS.format(name), Recursive=True
    )
    names = sorted({str(one["Name"]) for one in found})
    return [Leftover("SSM parameter", one) for one in names]


def _buckets(s3: Any, name: str) -> list[Leftover]:
    left = []
    for one in pages(s3, "list_buckets", "Buckets"):
        try:
            tags = s3.get_bucket_tagging(Bucket=one["Name"])["TagSet"]
        except Exception as error:
            if not is_of_aws(error):
                raise
            continue  # it has no tags, or is another's
        if _has_tag(tags, name):
            left.append(Leftover("bucket", one["Name"]))
    return left


def _others(api: Any, name: str) -> list[Leftover]:
    wanted = [{"Key": TAG, "Values": [name]}]
    found = pages(api, "get_resources", "ResourceTagMappingList", TagFilters=wanted)
    arns = [str(one["ResourceARN"]) for one in found]
    return [Leftover("other", arn) for arn in arns if arn.split(":")[2] in _OTHERS]
