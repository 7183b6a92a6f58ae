"""AWS before an apply: credentials, type, zone, quota, addresses, image."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dto.cluster.cloud.aws import client, code_of, is_of_aws, missing_boto3, pages, words_for
from dto.cluster.cloud.quota import quota_code, shortage
from dto.cluster.cloud.verdict import Verdict, summed

VARIABLES = (
    "region", "instance_type", "instance_count", "fallback_instance_types", "head_instance_type",
    "availability_zone", "capacity_type", "ami_id", "head_ami_id", "ami_ssm_parameter",
    "enable_efa", "private_subnet_cidr", "existing_private_subnet_id",
)  # fmt: skip
_RESERVED_ADDRESSES = 5  # of every subnet, by AWS
_OTHERS = 8  # head, mount targets, endpoints


@dataclass(frozen=True)
class Wanted:
    """What the checks need of a root's variables; None is what nobody has said yet."""

    region: str | None = None
    instance_type: str | None = None
    count: int = 1
    other_types: tuple[str, ...] = ()
    zone: str | None = None
    spot: bool = False
    images: tuple[str, ...] = ()
    image_parameter: str | None = None
    efa: bool | None = None
    subnet_cidr: str | None = None
    subnet_id: str | None = None


def wanted(variables: Mapping[str, Any]) -> Wanted:
    known = {name: value for name, value in variables.items() if value not in (None, "")}
    others = [known.get("head_instance_type"), *known.get("fallback_instance_types", ())]
    images = [known.get(name) for name in ("ami_id", "head_ami_id")]
    return Wanted(
        region=known.get("region"),
        instance_type=known.get("instance_type"),
        count=int(known.get("instance_count", 1)),
        other_types=tuple(name for name in others if name),
        zone=known.get("availability_zone"),
        spot=known.get("capacity_type") == "spot",
        images=tuple(image for image in images if image),
        image_parameter=known.get("ami_ssm_parameter"),
        efa=known.get("enable_efa"),
        subnet_cidr=known.get("private_subnet_cidr"),
        subnet_id=known.get("existing_private_subnet_id"),
    )


def credentials(region: str | None) -> Verdict:
    """Ask AWS who we are."""
    try:
        import boto3  # noqa: F401
    except ImportError:
        return Verdict((str(missing_boto3()),))
    try:
        _plain("sts", region or "us-east-1").get_caller_identity()
    except Exception as error:
        if not is_of_aws(error):
            raise
        return Verdict((words_for(error),))
    return Verdict()


def _plain(service: str, region: str) -> Any:
    """A client that raises its own errors also when it is made (a profile that is not there)."""
    import boto3
    from botocore.config import Config

    limits = Config(
        connect_timeout=10, read_timeout=30, retries={"mode": "standard", "max_attempts": 3}
    )
    return boto3.client(service, region_name=region, config=limits)


def check(variables: Mapping[str, Any]) -> Verdict:
    """Look at everything that the variables say; what they leave open is left out."""
    asked = wanted(variables)
    if asked.region is None:
        return Verdict()
    ec2 = client("ec2", asked.region)
    types = {name for name in (asked.instance_type, *asked.other_types) if name}
    known, verdict = _types(ec2, types, asked.region)
    parts = [verdict, *(_image(ec2, image, asked.region) for image in asked.images)]
    if asked.image_parameter:
        parts.append(_image_parameter(asked.image_parameter, asked.region))
    shape = known.get(asked.instance_type or "")
    if shape is not None:
        parts.append(_zone(ec2, asked))
        parts.append(_quota(ec2, asked, int(shape["VCpuInfo"]["DefaultVCpus"])))
        parts.append(_addresses(ec2, asked, shape.get("NetworkInfo", {})))
    return summed(parts)


def _guarded(doing: str, function: Callable[[], Verdict]) -> Verdict:
    """What may not be looked at is a note: only an answer can be a failure."""
    try:
        return function()
    except Exception as error:
        if not is_of_aws(error):
            raise
        return Verdict(notes=(f"{doing} could not be checked: {words_for(error)}",))


def _types(ec2: Any, names: set[str], region: str) -> tuple[dict[str, Any], Verdict]:
    """Describe the types one by one: one that is unknown would spoil the answer for all."""
    found: dict[str, Any] = {}
    verdicts = []
    for name in sorted(names):

        def ask(name: str = name) -> Verdict:
            try:
                answer = ec2.describe_instance_types(InstanceTypes=[name])
            except Exception as error:
                if code_of(error) != "InvalidInstanceType":
                    raise
                return Verdict((f"AWS has no instance type {name} in {region}",))
            found.update({one["InstanceType"]: one for one in answer["InstanceTypes"]})
            return Verdict()

        verdicts.append(_guarded(f"instance type {name}", ask))
    return found, summed(verdicts)


def _zone(ec2: Any, asked: Wanted) -> Verdict:
    kind = str(asked.instance_type)

    def ask() -> Verdict:
        offers = pages(
            ec2, "describe_instance_type_offerings", "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": [kind]}],
        )  # fmt: skip
        zones = sorted(one["Location"] for one in offers)
        return judge_zones(asked, zones)

    return _guarded(f"which zones offer {kind}", ask)


def judge_zones(asked: Wanted, zones: list[str]) -> Verdict:
    kind = asked.instance_type
    if not zones:
        return Verdict((f"no zone of {asked.region} offers {kind}: choose another region",))
    if asked.zone is not None and asked.zone not in zones:
        others = ", ".join(zones)
        return Verdict((f"zone {asked.zone} does not offer {kind}; these do: {others}",))
    return Verdict()


def _quota(ec2: Any, asked: Wanted, vcpus: int) -> Verdict:
    kind = str(asked.instance_type)
    code = quota_code(kind, asked.spot)

    def ask() -> Verdict:
        quotas = client("service-quotas", asked.region)
        answer = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)
        limit = float(answer["Quota"]["Value"])
        used = _vcpus_in_use(ec2, code, asked.spot)
        text = shortage(kind, asked.count, vcpus, used, limit, asked.spot)
        return Verdict((text,)) if text else Verdict()

    return _guarded(f"the quota for {kind} ({code})", ask)


def _vcpus_in_use(ec2: Any, code: str, spot: bool) -> float:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    found = pages(ec2, "describe_instances", "Reservations", Filters=states)
    running = [one for reservation in found for one in reservation["Instances"]]
    shapes = [
        one.get("CpuOptions", {})
        for one in running
        if (one.get("InstanceLifecycle") == "spot") == spot
        and quota_code(one["InstanceType"], spot) == code
    ]
    return sum(float(cpus.get("CoreCount", 0) * cpus.get("ThreadsPerCore", 1)) for cpus in shapes)


def _addresses(ec2: Any, asked: Wanted, network: Mapping[str, Any]) -> Verdict:
    each = 1
    if asked.efa or (asked.efa is None and network.get("EfaSupported")):
        each = int(network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 1))
    if asked.subnet_id is None:
        free = addresses_in(asked.subnet_cidr)
        return judge_addresses(asked, each, free, asked.subnet_cidr or "")

    def ask() -> Verdict:
        answer = ec2.describe_subnets(SubnetIds=[asked.subnet_id])
        free = int(answer["Subnets"][0]["AvailableIpAddressCount"])
        return judge_addresses(asked, each, free, str(asked.subnet_id))

    return _guarded(f"subnet {asked.subnet_id}", ask)


def addresses_in(cidr: str | None) -> int | None:
    """How many addresses AWS gives away in a subnet; Terraform itself complains of a bad one."""
    try:
        size = ipaddress.ip_network(cidr or "", strict=False).num_addresses
    except ValueError:
        return None
    return size - _RESERVED_ADDRESSES


def judge_addresses(asked: Wanted, each: int, free: int | None, where: str) -> Verdict:
    needed = asked.count * each + (0 if asked.subnet_id else _OTHERS)
    if free is None or needed <= free:
        return Verdict()
    per = f" with {each} network cards each" if each > 1 else ""
    return Verdict(
        (
            f"subnet {where} has {free} addresses, {asked.count} x {asked.instance_type}{per} need"
            f" {needed}: take a larger one",
        )
    )


def _image(ec2: Any, image: str, region: str) -> Verdict:
    def ask() -> Verdict:
        try:
            answer = ec2.describe_images(ImageIds=[image])
        except Exception as error:
            if not code_of(error).startswith("InvalidAMIID"):
                raise
            answer = {"Images": []}
        if not answer["Images"]:
            return Verdict((f"image {image} is not in {region}, or not for this account",))
        return Verdict()

    return _guarded(f"image {image}", ask)


def _image_parameter(name: str, region: str) -> Verdict:
    def ask() -> Verdict:
        try:
            client("ssm", region).get_parameter(Name=name)
        except Exception as error:
            if code_of(error) != "ParameterNotFound":
                raise
            return Verdict((f"no SSM parameter {name} in {region}: it was to name the image",))
        return Verdict()

    return _guarded(f"the SSM parameter {name}", ask)
