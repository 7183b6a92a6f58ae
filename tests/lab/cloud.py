"""A make-believe Amazon for a lab: moto's API, with a real host of the lab behind each instance.

    with labs("cloud", [], wheels=True) as lab, Cloud.up(lab) as cloud:
        cloud.environment()          # with these variables a program finds this AWS and no other
        cloud.scale(2)               # the scaling group starts machines, or takes some away
        cloud.terminate(identity)    # AWS takes a machine away; its scaling group starts another
        cloud.nodes()                # the ids of the nodes that AWS runs, the oldest first
        cloud.host_of(identity)      # "head", "n1", "n2" ...: its host, waits until it has booted
        cloud.instance_of("n1")      # the other way round

An instance gets a host that is made for it and is used for no other: its name in the lab is "head"
or the next of n1, n2 ... Before it boots it is given what cloud-init would write of the user data,
a metadata service of its own, and the way to this AWS for all that systemd starts there. The host
of an instance that is terminated loses its power.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from tests.cloud import moto
from tests.cloud.aws_account import tags
from tests.helpers import PROGRAMS
from tests.lab.commands import LabError, wait_until
from tests.lab.hosts import Host
from tests.lab.lab import Lab

METADATA = "169.254.169.254"
FIRST_HOST = 10  # as a lab numbers its hosts
NOTICE = "/run/spot-notice"
_SERVICE = f"""[Unit]
Description=The metadata service of this machine's cloud
[Service]
ExecStartPre=/bin/ip address replace {METADATA}/32 dev lo
ExecStart=/usr/bin/python3 /usr/local/lib/metadata_service.py {METADATA} {NOTICE} /etc/metadata.json
[Install]
WantedBy=multi-user.target
"""


class Cloud:
    """Watches AWS in a thread and has the lab follow; `up` makes one for the length of a block."""

    def __init__(self, lab: Lab, url: str) -> None:
        self.lab, self.url = lab, url
        self._hosts: dict[str, str] = {}  # instance id -> host, of all that ever were
        self._dead: set[str] = set()
        self._problem: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cloud")

    @classmethod
    @contextmanager
    def up(cls, lab: Lab) -> Iterator[Cloud]:
        first = lab.network.address(FIRST_HOST)
        with moto.moto_server(lab.network.gateway, first) as url:
            cloud = cls(lab, url)
            cloud._thread.start()
            try:
                yield cloud
            finally:
                cloud._over.set()
                cloud._thread.join()
        cloud.check()

    def environment(self) -> dict[str, str]:
        return moto.environment(self.url)

    def client(self, service: str) -> Any:
        import boto3

        return boto3.client(
            service, region_name=moto.REGION, endpoint_url=self.url,
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # fmt: skip

    def check(self) -> None:
        """Raise what has gone wrong in the thread."""
        if self._problem is not None:
            raise LabError(f"the cloud: {self._problem!r}") from self._problem

    # What a test does

    def scale(self, count: int) -> None:
        """Set how many nodes the one scaling group wants."""
        scaling = self.client("autoscaling")
        [group] = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
        name = group["AutoScalingGroupName"]
        scaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=count)

    def terminate(self, identity: str) -> None:
        self.client("ec2").terminate_instances(InstanceIds=[identity])

    def nodes(self) -> list[str]:
        found = [one for one in self._instances() if tags(one).get("dto:role") == "node"]
        return [one["InstanceId"] for one in found if one["State"]["Name"] == "running"]

    def host_of(self, identity: str, timeout: float = 120) -> str:
        wait_until(lambda: self._has(identity), f"{identity} to boot", timeout)
        return self._hosts[identity]

    def instance_of(self, host: str) -> str:
        return next(identity for identity, name in self._hosts.items() if name == host)

    def _has(self, identity: str) -> bool:
        self.check()
        return identity in self._hosts

    # What the thread does

    def _instances(self, ec2: Any = None) -> list[dict[str, Any]]:
        """All that ever were, the oldest first."""
        found = (ec2 or self.client("ec2")).describe_instances()["Reservations"]
        listed = [one for reservation in found for one in reservation["Instances"]]
        return sorted(listed, key=lambda one: one["LaunchTime"])

    def _watch(self) -> None:
        try:
            ec2 = self.client("ec2")
            while not self._over.wait(0.3):
                self._follow(ec2)
        except BaseException as error:  # told by `check`
            self._problem = error

    def _follow(self, ec2: Any) -> None:
        for one in self._instances(ec2):
            identity, state = one["InstanceId"], one["State"]["Name"]
            if identity not in self._hosts and state == "running":
                self._boot(one, ec2)
            elif identity in self._hosts and state == "terminated" and identity not in self._dead:
                self._dead.add(identity)
                self.lab.kill(self._hosts[identity])

    def _boot(self, instance: dict[str, Any], ec2: Any) -> None:
        is_head = tags(instance).get("dto:role") == "head"
        name = "head" if is_head else f"n{sum(one != 'head' for one in self.lab.hosts) + 1}"
        identity = instance["InstanceId"]
        told = ec2.describe_instance_attribute(InstanceId=identity, Attribute="userData")
        data = read_user_data(told["UserData"]["Value"], identity)
        number = int(instance["PrivateIpAddress"].rpartition(".")[2])
        self.lab.add(
            [name],
            first_number=number,
            prepare=lambda host: self._prepare(host, instance, data),
        )
        for words in data["runcmd"]:
            done = self.lab.inside(name, *words)
            if done.returncode:
                raise LabError(f"{name}: {' '.join(words)}: {done.stderr}")
        self._hosts[identity] = name

    def _prepare(self, host: Host, instance: dict[str, Any], data: dict[str, Any]) -> None:
        for file in data["write_files"]:
            content = file["content"].encode()
            if file.get("encoding") == "b64":
                content = base64.b64decode(content)
            put(host, file["path"], content.decode(), int(file["permissions"], 8))
        put(host, "etc/hostname", data["hostname"] + "\n")
        put(host, "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {data['hostname']}\n")
        endpoint = f"AWS_ENDPOINT_URL={self.url}"
        put(host, "etc/environment", f"{endpoint}\n")
        settings = f"[Manager]\nDefaultEnvironment={endpoint}\n"
        put(host, "etc/systemd/system.conf.d/endpoint.conf", settings)
        put(host, "etc/metadata.json", json.dumps(metadata_of(instance)))
        program = "metadata_service.py"
        put(host, f"usr/local/lib/{program}", (PROGRAMS / program).read_text())
        units = "etc/systemd/system"
        put(host, f"{units}/metadata.service", _SERVICE)
        wanted = host.root / units / "multi-user.target.wants"
        wanted.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (wanted / "metadata.service").symlink_to("../metadata.service")


def put(host: Host, path: str, text: str, mode: int = 0o644) -> None:
    target = host.root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


def read_user_data(encoded: str, identity: str) -> dict[str, Any]:
    """Read user data as cloud-init does."""
    text = base64.b64decode(encoded).decode()
    if text.startswith("## template: jinja"):
        template = Environment(undefined=StrictUndefined).from_string(text)
        text = template.render(v1={"instance_id": identity})
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def metadata_of(instance: dict[str, Any]) -> dict[str, str]:
    """What the metadata service of an instance knows, by the paths under which it is asked."""
    role = f"role-of-{tags(instance)['dto:role']}"
    keys = {
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": "testing", "SecretAccessKey": "testing", "Token": "testing",
        "Expiration": "2099-01-01T00:00:00Z",
    }  # fmt: skip
    return {
        "instance-id": instance["InstanceId"],
        "instance-type": instance["InstanceType"],
        "local-ipv4": instance["PrivateIpAddress"],
        "placement/region": moto.REGION,
        "placement/availability-zone": instance["Placement"]["AvailabilityZone"],
        "iam/security-credentials/": role,
        f"iam/security-credentials/{role}": json.dumps(keys),
    }
