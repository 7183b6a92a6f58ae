"""A make-believe AWS: moto's server in a process of its own, on loopback unless it is said."""

from __future__ import annotations

import ipaddress
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.helpers import REPOSITORY

REGION = "eu-north-1"
ACCOUNT = "123456789012"
UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"


@contextmanager
def moto_server(address: str = "127.0.0.1", first_machine: str = "") -> Iterator[str]:
    """Start an empty AWS and yield its URL; it and all it held are gone afterwards.

    Its machines get the addresses from `first_machine` on, one after the other and none twice.
    """
    quiet = {"MOTO_CALL_RESET_API": "false", "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.cloud.moto", address, *filter(None, [first_machine])],
        cwd=REPOSITORY, env={**os.environ, **quiet},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            assert url.startswith(f"http://{address}:"), f"moto did not start: {url!r}"
            yield url
        finally:
            server.kill()


def environment(url: str) -> dict[str, str]:
    """What an AWS client needs to find this AWS and no other."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _correct() -> None:
    """Three answers that moto gives and AWS does not: each would be a change in every plan."""
    from moto.autoscaling import models as scaling
    from moto.ec2.models import launch_templates, security_groups

    create = launch_templates.LaunchTemplate.create_version

    def create_version(self, data, description):  # type: ignore[no-untyped-def]
        # the template's own tags are not among those of what it starts
        if specifications := data.get("TagSpecifications"):
            kept = [one for one in specifications if one["ResourceType"] != "launch-template"]
            data = {**data, "TagSpecifications": kept}
        return create(self, data, description)

    def description(self):  # type: ignore[no-untyped-def]
        # a rule for another group has a description, too
        return self.ip_range.get("Description") or self.source_group.get("Description")

    update_group = scaling.FakeAutoScalingGroup.update

    def update(self, *args, **more):  # type: ignore[no-untyped-def]
        # an update that does not speak of the instance types leaves them as they are
        policy = more.get("mixed_instances_policy") or self.mixed_instances_policy
        update_group(self, *args, **more)
        self.mixed_instances_policy = policy

    scaling.FakeAutoScalingGroup.update = update
    launch_templates.LaunchTemplate.create_version = create_version
    security_groups.SecurityGroupRule.description = property(description)


def _place_machines(first: str) -> None:
    """Give machines the addresses of real hosts; a head's elastic address is the one it has."""
    from moto.ec2.models import ec2_backends, elastic_ip_addresses, subnets

    free = map(ipaddress.ip_address, itertools.count(int(ipaddress.ip_address(first))))

    def next_address(self, instance):  # type: ignore[no-untyped-def]
        address = str(next(free))
        self._subnet_ips[address] = instance
        return address

    def elastic_address() -> str:
        machines = ec2_backends[ACCOUNT][REGION].all_instances()
        [head] = [one for one in machines if tag_of(one, "dto:role") == "head"]
        return str(head.private_ip)

    def tag_of(machine, key: str) -> str:  # type: ignore[no-untyped-def]
        return next((tag["value"] for tag in machine.get_tags() if tag["key"] == key), "")

    subnets.Subnet.get_available_subnet_ip = next_address
    elastic_ip_addresses.random_ip = elastic_address


def _offer_ubuntu(url: str) -> None:
    """The image that Canonical publishes, under the parameter that names it."""
    import boto3
    from moto.core.utils import utcnow
    from moto.ssm.models import Parameter, ssm_backends

    client = boto3.client(
        "ec2",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}
    image = client.register_image(
        Name="ubuntu-24.04", RootDeviceName="/dev/sda1", BlockDeviceMappings=[disk]
    )["ImageId"]
    for name in (UBUNTU, UBUNTU.replace("amd64", "arm64")):
        ssm_backends[ACCOUNT][REGION]._parameters[name].append(
            Parameter(
                account_id=ACCOUNT,
                name=name,
                value=image,
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=utcnow().timestamp(),
                version=1,
                data_type="aws:ec2:image",
            )  # fmt: skip
        )


def _serve(address: str, first_machine: str = "") -> None:
    """Serve until the test that started us is gone, however it went."""
    import logging

    from moto.server import ThreadedMotoServer

    from tests.cloud.placement_groups import add_placement_groups

    add_placement_groups()
    _correct()
    if first_machine:
        _place_machines(first_machine)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    _offer_ubuntu(f"http://{host}:{port}")
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
