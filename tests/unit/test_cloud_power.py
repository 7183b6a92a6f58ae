"""The program that asks a cloud to switch a machine; fake programs stand in for the clouds' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

PROGRAM = Path(__file__).parents[2] / "ansible/roles/guard/files/cloud-power"


def cloud_power(tmp_path: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path),
            "DTO_GUARD_FACTS": str(tmp_path / "guard.json")}  # fmt: skip
    return subprocess.run(
        [sys.executable, str(PROGRAM), *words],
        env={**bare, **env}, text=True, capture_output=True, timeout=60,
    )  # fmt: skip


def fake_nebius(folder: Path, script: str) -> None:
    path = folder / "nebius"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("way", "verb"), [("off", "stop"), ("on", "start")])
def test_nebius_is_asked_by_its_own_program(tmp_path: Path, way: str, verb: str):
    fake_nebius(tmp_path, 'echo "$@" > "$HOME/asked"')
    assert cloud_power(tmp_path, way, "nebius", "computeinstance-e1").returncode == 0
    asked = (tmp_path / "asked").read_text()
    assert asked == f"compute instance {verb} --id computeinstance-e1\n"


def test_what_nebius_says_is_told_in_one_line(tmp_path: Path):
    fake_nebius(tmp_path, 'printf "no such\\ninstance\\n" >&2; exit 1')
    done = cloud_power(tmp_path, "off", "nebius", "x")
    assert (done.returncode, done.stderr) == (1, "error: no such instance\n")


def test_a_missing_program_is_named(tmp_path: Path):
    done = cloud_power(tmp_path, "off", "nebius", "x")
    assert done.returncode == 1 and "nebius is not installed" in done.stderr


@pytest.mark.parametrize(
    "words", [(), ("off", "aws"), ("down", "aws", "i-1"), ("off", "gcp", "i-1")]
)
def test_wrong_words_are_a_usage_error(tmp_path: Path, words: tuple[str, ...]):
    done = cloud_power(tmp_path, *words)
    assert done.returncode == 2 and done.stderr.startswith("usage: cloud-power")


def test_an_id_is_never_an_option(tmp_path: Path):
    assert cloud_power(tmp_path, "off", "nebius", "--all").returncode == 1


def test_a_group_of_amazon_shrinks_and_grows_by_one_machine(tmp_path: Path):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _shrink_and_grow(tmp_path, f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    finally:
        server.stop()


def _shrink_and_grow(tmp_path: Path, url: str) -> None:
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": url,
            "NO_PROXY": "127.0.0.1"}  # fmt: skip
    os.environ.update(keys)
    try:
        ec2 = boto3.client("ec2", region_name="eu-north-1")
        groups = boto3.client("autoscaling", region_name="eu-north-1")
    finally:
        for key in keys:
            del os.environ[key]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    groups.create_launch_configuration(
        LaunchConfigurationName="nodes", ImageId=image, InstanceType="t3.micro"
    )
    groups.create_auto_scaling_group(
        AutoScalingGroupName="lab", LaunchConfigurationName="nodes", MinSize=0, MaxSize=2,
        DesiredCapacity=2, AvailabilityZones=[zone],
    )  # fmt: skip

    def members() -> list[str]:
        [found] = groups.describe_auto_scaling_groups()["AutoScalingGroups"]
        return [one["InstanceId"] for one in found["Instances"]]

    facts = {"region": "eu-north-1", "cloud": {"scaling_group": "lab"}}
    (tmp_path / "guard.json").write_text(json.dumps(facts))
    first, second = members()
    done = cloud_power(tmp_path, "off", "aws", first, **keys)
    assert done.returncode == 0, done.stderr
    assert members() == [second]
    done = cloud_power(tmp_path, "on", "aws", first, **keys)
    assert done.returncode == 0, done.stderr
    assert len(members()) == 2
    assert "2 machines already" in cloud_power(tmp_path, "on", "aws", first, **keys).stderr
    (tmp_path / "guard.json").write_text('{"region": "eu-north-1", "cloud": {}}')
    unnamed = cloud_power(tmp_path, "on", "aws", first, **keys)
    assert unnamed.returncode == 1 and "names no cloud.scaling_group" in unnamed.stderr
