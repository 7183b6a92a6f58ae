"""What an AWS account holds, to see that all of it is gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3

from tests.cloud.moto import REGION

# service, call, the list in its answer, what names one of the list
_LISTS = [
    ("ec2", "describe_vpcs", "Vpcs", "VpcId"),
    ("ec2", "describe_subnets", "Subnets", "SubnetId"),
    ("ec2", "describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    ("ec2", "describe_route_tables", "RouteTables", "RouteTableId"),
    ("ec2", "describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    ("ec2", "describe_security_groups", "SecurityGroups", "GroupId"),
    ("ec2", "describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId"),
    ("ec2", "describe_addresses", "Addresses", "AllocationId"),
    ("ec2", "describe_volumes", "Volumes", "VolumeId"),
    ("ec2", "describe_key_pairs", "KeyPairs", "KeyPairId"),
    ("ec2", "describe_launch_templates", "LaunchTemplates", "LaunchTemplateId"),
    ("ec2", "describe_flow_logs", "FlowLogs", "FlowLogId"),
    ("ec2", "describe_spot_instance_requests", "SpotInstanceRequests", "SpotInstanceRequestId"),
    ("autoscaling", "describe_auto_scaling_groups", "AutoScalingGroups", "AutoScalingGroupName"),
    ("efs", "describe_file_systems", "FileSystems", "FileSystemId"),
    ("s3", "list_buckets", "Buckets", "Name"),
    ("iam", "list_roles", "Roles", "RoleName"),
    ("iam", "list_instance_profiles", "InstanceProfiles", "InstanceProfileName"),
    ("secretsmanager", "list_secrets", "SecretList", "ARN"),
    ("logs", "describe_log_groups", "logGroups", "logGroupName"),
]
_WITH_TAGS = {"describe_vpcs", "describe_subnets", "describe_internet_gateways", "describe_volumes",
              "describe_addresses", "describe_key_pairs", "describe_launch_templates",
              "describe_security_groups", "describe_vpc_endpoints",
              "describe_auto_scaling_groups", "describe_file_systems"}  # fmt: skip


class Account:
    """A look at the account behind an endpoint."""

    def __init__(self, url: str) -> None:
        self._url = url

    def client(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self._url, region_name=REGION, aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )  # fmt: skip

    def holdings(self) -> set[str]:
        """Everything that can cost money or be forgotten, as `call:id`."""
        found = {f"instance:{one['InstanceId']}" for one in self.instances()}
        for service, call, key, name in _LISTS:
            answer = getattr(self.client(service), call)()
            alive = [one for one in answer[key] if not self._is_ghost(one)]
            found |= {f"{call.partition('_')[2]}:{one.get(name)}" for one in alive}
        gateways = self.client("ec2").describe_nat_gateways()["NatGateways"]
        alive = [one["NatGatewayId"] for one in gateways if one["State"] != "deleted"]
        return found | {f"nat_gateway:{one}" for one in alive}

    def _is_ghost(self, thing: dict[str, Any]) -> bool:
        """Whether moto still shows what AWS drops with the instance or network it was of."""
        if thing.get("State") == "deleted":
            return True
        attached = thing.get("Attachments", [])  # a volume's
        if "NetworkInterfaceId" in thing:
            vpcs = {one["VpcId"] for one in self.client("ec2").describe_vpcs()["Vpcs"]}
            if thing["VpcId"] not in vpcs:
                return True
            attached = [thing["Attachment"]] if thing.get("Attachment") else []
        owners = {one["InstanceId"] for one in attached if "InstanceId" in one}
        return bool(owners) and not owners & {one["InstanceId"] for one in self.instances()}

    def instances(self) -> list[dict[str, Any]]:
        """The instances that are not terminated."""
        found = self.client("ec2").describe_instances()["Reservations"]
        all_of_them = [one for reservation in found for one in reservation["Instances"]]
        return [one for one in all_of_them if one["State"]["Name"] != "terminated"]

    def nodes(self) -> list[str]:
        """The ids of a cluster's running nodes."""
        return [
            one["InstanceId"] for one in self.instances() if tags(one).get("dto:role") == "node"
        ]

    def untagged(self, cluster: str, before: set[str]) -> Iterator[str]:
        """What is new and does not say which cluster it belongs to."""
        for one in self.instances():
            if tags(one).get("dto:cluster") != cluster:
                yield one["InstanceId"]
        # moto's scaling groups tag what they start, but not its disks, as the template asks them to
        nodes = set(self.nodes())
        for service, call, key, name in _LISTS:
            if call not in _WITH_TAGS:
                continue
            for one in getattr(self.client(service), call)()[key]:
                place = f"{call.partition('_')[2]}:{one.get(name)}"
                of_nodes = nodes & {disk.get("InstanceId") for disk in one.get("Attachments", ())}
                if place in before or of_nodes:
                    continue
                if tags(one).get("dto:cluster") != cluster:
                    yield place


def tags(thing: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", ())}
