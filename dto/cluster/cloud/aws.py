"""AWS by its API: clients with plain errors, and the nodes of a cluster's auto-scaling group."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.keys import host_key
from dto.errors import ClusterError, UsageError

TAG = "dto:cluster"
WAIT_SECONDS = 900.0
_EVERY_SECONDS = 5.0
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_REFUSED = {
    "InvalidClientTokenId", "UnrecognizedClientException", "AuthFailure", "SignatureDoesNotMatch",
    "InvalidAccessKeyId", "IncompleteSignature",
}  # fmt: skip
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}


def missing_boto3() -> UsageError:
    return UsageError("boto3 is not installed here: pip install 'dto[cluster]'")


def code_of(error: Exception) -> str:
    """The short name of what AWS refused: AccessDenied, InvalidInstanceType ..."""
    found = getattr(error, "response", None)
    return str(found.get("Error", {}).get("Code", "")) if isinstance(found, dict) else ""


def words_for(error: Exception) -> str:
    """Say in one line what is wrong between us and AWS, and what to do."""
    kind, code = type(error).__name__, code_of(error)
    if code in _EXPIRED or kind in ("TokenRetrievalError", "UnauthorizedSSOTokenError"):
        return "the AWS credentials have expired: renew them (aws sso login, or new keys)"
    if kind == "SSOTokenLoadError":
        return "the AWS credentials have expired: renew them (aws sso login)"
    if kind in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        return "no AWS credentials are set: aws configure, or AWS_PROFILE, or AWS_ACCESS_KEY_ID ..."
    if kind == "ProfileNotFound":
        return f"{' '.join(str(error).split())}: see AWS_PROFILE and ~/.aws/config"
    if code in _REFUSED:
        return f"AWS refuses the credentials ({code}): are they deleted, or of another account?"
    if code in _DENIED:
        return f"AWS denies it to these credentials: {_message(error)}"
    if kind == "NoRegionError":
        return "no AWS region is set: say --region, or set AWS_REGION"
    if kind in ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "SSLError"):
        return f"AWS cannot be reached: {' '.join(str(error).split())}"
    if kind == "ResponseParserError":
        return "AWS gave an answer that cannot be read: is AWS_ENDPOINT_URL right?"
    return _message(error)


def _message(error: Exception) -> str:
    found = getattr(error, "response", None)
    said = found.get("Error", {}) if isinstance(found, dict) else {}
    text = f"{said['Message']} ({said.get('Code')})" if said.get("Message") else str(error)
    return " ".join(text.split())


def is_of_aws(error: Exception) -> bool:
    """Whether boto3 raised it because of AWS, or on the way there."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return isinstance(error, BotoCoreError | ClientError | ResponseParserError)


@contextlib.contextmanager
def plain_errors(doing: str) -> Iterator[None]:
    """Turn what boto3 raises into one line.

    Raises:
        ClusterError: AWS could not be asked, or refused.
    """
    try:
        import botocore  # noqa: F401
    except ImportError:
        raise missing_boto3() from None
    try:
        yield
    except Exception as error:
        if not is_of_aws(error):
            raise
        raise ClusterError(f"{doing}: {words_for(error)}") from None


def client(service: str, region: str | None) -> Any:
    """Return a client that repeats what AWS throttles and gives up in finite time."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise missing_boto3() from None
    limits = Config(
        connect_timeout=10, read_timeout=60, retries={"mode": "standard", "max_attempts": 6}
    )
    with plain_errors(service):
        return boto3.client(service, region_name=region or None, config=limits)


def pages(api: Any, call: str, key: str, **words: Any) -> list[Any]:
    """Return everything that a listing has, page by page."""
    if api.can_paginate(call):
        return [
            item for page in api.get_paginator(call).paginate(**words) for item in page.get(key, ())
        ]
    return list(getattr(api, call)(**words).get(key, ()))


@dataclass(frozen=True)
class Instance:
    """A machine of the scaling group that is in service."""

    instance_id: str
    instance_type: str
    address: str
    spot: bool = False


def node_name(cluster: str, group: str, instance_id: str) -> str:
    """Return the name that an instance has for as long as it lives."""
    return f"{cluster}-{group}-{instance_id[-8:]}"


def group_of(record: DtoCluster) -> str:
    """The node group that the scaling group's machines belong to."""
    names = list(record.groups)
    return names[0] if len(names) == 1 or "gpu" not in names else "gpu"


def node_entries(
    record: DtoCluster, found: Iterable[Instance], keys: Mapping[str, Sequence[str]]
) -> DtoCluster:
    """Return the record with these machines as nodes, and with the keys that hosts published."""
    raw, group = record.to_json(), group_of(record)
    nodes, trusted = list(raw.get("nodes", ())), dict(raw.get("host_keys", {}))
    for one in sorted(found, key=lambda one: one.instance_id):
        name = node_name(record.name, group, one.instance_id)
        entry = {"name": name, "address": one.address, "group": group, "spot": one.spot}
        entry |= {"instance_id": one.instance_id, "instance_type": one.instance_type}
        nodes = [node for node in nodes if node.get("instance_id") != one.instance_id] + [entry]
        if keys.get(one.instance_id):
            trusted[one.address] = list(keys[one.instance_id])
    head = record.head
    if head.instance_id and keys.get(head.instance_id):
        trusted[head.address] = list(keys[head.instance_id])
    changed = {**raw, "nodes": nodes, "host_keys": trusted}
    return parse_record(changed, f"cluster {record.name} on AWS")


def instances_of(record: DtoCluster) -> tuple[int, list[Instance]]:
    """Return how many machines the scaling group wants, and those that are in service."""
    group = record.cloud.scaling_group
    if group is None:
        return 0, []
    with plain_errors(f"the nodes of cluster {record.name}"):
        scaling = client("autoscaling", record.region)
        answer = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
        if not answer["AutoScalingGroups"]:
            where = record.region or "this region"
            raise ClusterError(f"no auto-scaling group {group} in {where}: run terraform apply")
        state = answer["AutoScalingGroups"][0]
        ids = [
            one["InstanceId"]
            for one in state["Instances"]
            if one["LifecycleState"] == "InService" and one.get("HealthStatus") != "Unhealthy"
        ]
        return int(state["DesiredCapacity"]), _described(record, ids) if ids else []


def _described(record: DtoCluster, ids: list[str]) -> list[Instance]:
    ec2 = client("ec2", record.region)
    filters = [
        {"Name": "instance-id", "Values": ids},
        {"Name": f"tag:{TAG}", "Values": [record.name]},
        {"Name": "instance-state-name", "Values": ["running"]},
    ]
    found = pages(ec2, "describe_instances", "Reservations", Filters=filters)
    return [
        Instance(
            instance_id=one["InstanceId"],
            instance_type=one["InstanceType"],
            address=one["PrivateIpAddress"],
            spot=one.get("InstanceLifecycle") == "spot",
        )
        for reservation in found
        for one in reservation["Instances"]
        if one.get("PrivateIpAddress")  # a new one may lack it for some seconds
    ]


def living(record: DtoCluster) -> set[str]:
    """Return the ids of the cluster's machines that AWS has not taken away, off or on."""
    filters = [
        {"Name": f"tag:{TAG}", "Values": [record.name]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    with plain_errors(f"the machines of cluster {record.name}"):
        ec2 = client("ec2", record.region)
        found = pages(ec2, "describe_instances", "Reservations", Filters=filters)
    return {one["InstanceId"] for reservation in found for one in reservation["Instances"]}


def publish_head_key(record: DtoCluster, public: str) -> bool:
    """Leave the head's public key where nodes look for it; say whether it was another before."""
    path = str(record.cloud.host_keys).rpartition("/")[0] + "/head-key.pub"
    with plain_errors(f"the head's public key at {path}"):
        ssm = client("ssm", record.region)
        try:
            if ssm.get_parameter(Name=path)["Parameter"]["Value"].split() == public.split():
                return False
        except ssm.exceptions.ParameterNotFound:
            pass
        ssm.put_parameter(Name=path, Value=public, Type="String", Overwrite=True)
    return True


def published_keys(record: DtoCluster) -> dict[str, tuple[str, ...]]:
    """Return instance id -> host keys, as the machines have written them to SSM."""
    path = record.cloud.host_keys
    if path is None:
        return {}
    with plain_errors(f"the host keys under {path}"):
        ssm = client("ssm", record.region)
        found = pages(
            ssm, "get_parameters_by_path", "Parameters", Path=path, Recursive=True,
            WithDecryption=True,
        )  # fmt: skip
    return {one["Name"].rpartition("/")[2]: _key_lines(one["Value"]) for one in found}


def _key_lines(text: str) -> tuple[str, ...]:
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # an odd line is no key, and so vouches for nothing
            lines.append(host_key(line))
    return tuple(lines)


def missing_of(
    record: DtoCluster, wanted: int, found: Sequence[Instance], keys: Mapping[str, Sequence[str]]
) -> list[str]:
    """Say what is not there yet: machines that are not in service, keys that are not published."""
    told = []
    if len(found) < wanted:
        told.append(f"{wanted - len(found)} of {wanted} nodes are not in service")
    if record.cloud.host_keys is not None:
        hosts = {one.instance_id: one.address for one in found}
        if record.head.instance_id and record.head.address not in record.host_keys:
            hosts[record.head.instance_id] = record.head.name
        told += [
            f"{place} ({key}) has not published its host key"
            for key, place in hosts.items()
            if not keys.get(key)
        ]
    return told


def with_nodes(
    record: DtoCluster, wait_seconds: float, say: Callable[[str], None]
) -> tuple[DtoCluster, list[str]]:
    """Return the record with its nodes as AWS runs them now, and what is still missing.

    A machine whose host key is not known is left out: setup would have to trust what it meets.
    """
    if record.provider != "aws" or record.cloud.scaling_group is None:
        return record, []
    deadline, told = time.monotonic() + wait_seconds, ""
    while True:
        wanted, found = instances_of(record)
        keys = published_keys(record)
        missing = missing_of(record, wanted, found, keys)
        if not missing or time.monotonic() >= deadline:
            break
        if told != missing[0]:
            told = missing[0]
            say(f"waiting for the cloud: {told}")
        time.sleep(min(_EVERY_SECONDS, max(0.1, deadline - time.monotonic())))
    if record.cloud.host_keys is not None:
        found = [one for one in found if keys.get(one.instance_id)]
    return node_entries(record, found, keys), missing
