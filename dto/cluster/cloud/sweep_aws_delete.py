"""Deletes what a cluster left on AWS, in passes: what hangs on something waits for the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from dto.cluster.cloud import sweep_aws
from dto.cluster.cloud.aws import client, code_of, is_of_aws, pages, words_for
from dto.cluster.cloud.data import empty_bucket
from dto.cluster.cloud.sweep import Found, Leftover, Reason, in_order

_PASSES = 40
_EVERY_SECONDS = 10.0
_LATER = (
    "DependencyViolation",
    "InUse",
    "IncorrectState",
    "ResourceInUse",
    "ScalingActivityIn",
    "Conflict",
)
_NOT_THERE = ("NotFound", "NoSuch", "DoesNotExist", "InvalidAllocationID", "ParameterNotFound")


def delete(
    name: str,
    region: str,
    keeps: Callable[[Leftover], bool],
    say: Callable[[str], None],
    every_seconds: float = _EVERY_SECONDS,
) -> Found:
    """Delete everything that `keeps` does not hold back; return what is left in the end."""
    told: set[str] = set()
    for _ in range(_PASSES):
        found = sweep_aws.find(name, region)
        goes = in_order(one for one in found.left if not keeps(one))
        if not goes:
            return found
        reasons = delete_once(goes, region, say, told)
        if reasons and all(one.is_final for one in reasons) and not _is_slow(goes):
            break
        if reasons or _is_slow(goes):
            time.sleep(every_seconds)
    found = sweep_aws.find(name, region)
    return Found(found.left, found.unseen, tuple(str(reason) for reason in reasons))


def _is_slow(goes: Sequence[Leftover]) -> bool:
    """Machines, gateways and filesystems are there for a while after they were deleted."""
    slow = {"auto-scaling group", "instance", "NAT gateway", "EFS", "FSx for Lustre", "endpoint"}
    return any(one.kind in slow for one in goes)


def delete_once(
    goes: Sequence[Leftover], region: str, say: Callable[[str], None], told: set[str]
) -> list[Reason]:
    """Try each once, in order; return why some could not go."""
    reasons = []
    # rules that name each other's groups keep both from going: all rules go before any group
    groups = [one for one in goes if one.kind == "security group"]
    steps = [(one, _DELETE[one.kind]) for one in goes]
    at = next((i for i, one in enumerate(goes) if one in groups), len(goes))
    for one, step in steps[:at] + [(one, _revoke) for one in groups] + steps[at:]:
        try:
            step(region, one.id)
        except Exception as error:
            if not is_of_aws(error):
                raise
            code = code_of(error)
            if not any(word in code for word in _NOT_THERE):
                is_final = not any(word in code for word in _LATER)
                reasons.append(Reason(str(one), words_for(error), is_final))
        else:
            if step is not _revoke and str(one) not in told:
                told.add(str(one))
                say(f"deleted {one}")
    return reasons


def _ec2(call: str, key: str) -> Callable[[str, str], Any]:
    return lambda region, identity: getattr(client("ec2", region), call)(**{key: identity})


def _many(call: str, key: str) -> Callable[[str, str], Any]:
    return lambda region, identity: getattr(client("ec2", region), call)(**{key: [identity]})


def _group(region: str, name: str) -> None:
    client("autoscaling", region).delete_auto_scaling_group(
        AutoScalingGroupName=name, ForceDelete=True
    )


def _address(region: str, identity: str) -> None:
    ec2 = client("ec2", region)
    found = ec2.describe_addresses(AllocationIds=[identity])["Addresses"]
    for one in found:
        if one.get("AssociationId"):
            ec2.disassociate_address(AssociationId=one["AssociationId"])
    ec2.release_address(AllocationId=identity)


def _efs(region: str, identity: str) -> None:
    efs = client("efs", region)
    for one in pages(efs, "describe_mount_targets", "MountTargets", FileSystemId=identity):
        efs.delete_mount_target(MountTargetId=one["MountTargetId"])
    efs.delete_file_system(FileSystemId=identity)


def _fsx(region: str, identity: str) -> None:
    client("fsx", region).delete_file_system(FileSystemId=identity)


def _interface(region: str, identity: str) -> None:
    ec2 = client("ec2", region)
    for one in ec2.describe_network_interfaces(NetworkInterfaceIds=[identity])["NetworkInterfaces"]:
        link = one.get("Attachment", {})
        if link.get("AttachmentId") and link.get("DeviceIndex") != 0:
            ec2.detach_network_interface(AttachmentId=link["AttachmentId"], Force=True)
    ec2.delete_network_interface(NetworkInterfaceId=identity)


def _revoke(region: str, identity: str) -> None:
    ec2 = client("ec2", region)
    group = ec2.describe_security_groups(GroupIds=[identity])["SecurityGroups"][0]
    if group.get("IpPermissions"):
        ec2.revoke_security_group_ingress(GroupId=identity, IpPermissions=group["IpPermissions"])
    if group.get("IpPermissionsEgress"):
        rules = group["IpPermissionsEgress"]
        ec2.revoke_security_group_egress(GroupId=identity, IpPermissions=rules)


def _route_table(region: str, identity: str) -> None:
    ec2 = client("ec2", region)
    for one in ec2.describe_route_tables(RouteTableIds=[identity])["RouteTables"]:
        for link in one.get("Associations", ()):
            if not link.get("Main"):
                ec2.disassociate_route_table(AssociationId=link["RouteTableAssociationId"])
    ec2.delete_route_table(RouteTableId=identity)


def _gateway(region: str, identity: str) -> None:
    ec2 = client("ec2", region)
    gateways = ec2.describe_internet_gateways(InternetGatewayIds=[identity])["InternetGateways"]
    for one in gateways:
        for link in one.get("Attachments", ()):
            ec2.detach_internet_gateway(InternetGatewayId=identity, VpcId=link["VpcId"])
    ec2.delete_internet_gateway(InternetGatewayId=identity)


def _profile(region: str, name: str) -> None:
    iam = client("iam", region)
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    for one in profile["Roles"]:
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=one["RoleName"])
    iam.delete_instance_profile(InstanceProfileName=name)


def _role(region: str, name: str) -> None:
    iam = client("iam", region)
    for policy in pages(iam, "list_role_policies", "PolicyNames", RoleName=name):
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    for one in pages(iam, "list_attached_role_policies", "AttachedPolicies", RoleName=name):
        iam.detach_role_policy(RoleName=name, PolicyArn=one["PolicyArn"])
    iam.delete_role(RoleName=name)


def _bucket(region: str, name: str) -> None:
    empty_bucket(name, region)
    client("s3", region).delete_bucket(Bucket=name)


_DELETE: dict[str, Callable[[str, str], Any]] = {
    "auto-scaling group": _group,
    "spot request": _many("cancel_spot_instance_requests", "SpotInstanceRequestIds"),
    "instance": _many("terminate_instances", "InstanceIds"),
    "NAT gateway": _ec2("delete_nat_gateway", "NatGatewayId"),
    "elastic IP": _address,
    "endpoint": _many("delete_vpc_endpoints", "VpcEndpointIds"),
    "launch template": _ec2("delete_launch_template", "LaunchTemplateId"),
    "EFS": _efs,
    "FSx for Lustre": lambda region, one: client("fsx", region).delete_file_system(
        FileSystemId=one
    ),
    "network interface": _interface,
    "volume": _ec2("delete_volume", "VolumeId"),
    "security group": _ec2("delete_security_group", "GroupId"),
    "placement group": _ec2("delete_placement_group", "GroupName"),
    "route table": _route_table,
    "subnet": _ec2("delete_subnet", "SubnetId"),
    "internet gateway": _gateway,
    "VPC": _ec2("delete_vpc", "VpcId"),
    "key pair": _ec2("delete_key_pair", "KeyPairId"),
    "instance profile": _profile,
    "IAM role": _role,
    "SSM parameter": lambda region, one: client("ssm", region).delete_parameter(Name=one),
    "bucket": _bucket,
}
