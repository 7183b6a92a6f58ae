"""Names, keys, quotas, tokens and the order of a sweep: all without any cloud."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dto.cluster.cloud import aws, data, preflight_aws, preflight_nebius
from dto.cluster.cloud.frames import gist
from dto.cluster.cloud.planned import Resource
from dto.cluster.cloud.quota import quota_code, shortage
from dto.cluster.cloud.root import find_root
from dto.cluster.cloud.sweep import Leftover, in_order
from dto.cluster.cloud.sweep_nebius import parse
from dto.cluster.cloud.terraform import Terraform
from dto.cluster.cloud.variables import declared, parse_console, provider_in
from dto.cluster.inventory import DtoCluster, parse_record
from dto.errors import ConfigError, UsageError
from tests.helpers import REPOSITORY
from tests.unit.cluster_records import public_key

KEY = public_key()


def record(**more: object) -> DtoCluster:
    raw = {
        "name": "fern",
        "provider": "aws",
        "head": {"name": "fern-head", "address": "10.0.0.1", "instance_id": "i-head"},
        "node_groups": {"gpu": {"gpus": 8, "gpu_type": "h100"}},
        "cloud": {"scaling_group": "fern-gpu", "host_keys": "/dto/fern/host-keys"},
        **more,
    }
    return parse_record(raw, "test")


def test_a_node_keeps_its_name_as_long_as_its_instance_lives() -> None:
    assert aws.node_name("fern", "gpu", "i-08087f0ebc1877e14") == "fern-gpu-c1877e14"
    found = [
        aws.Instance("i-08087f0ebc1877e14", "p5.48xlarge", "10.0.1.5", spot=True),
        aws.Instance("i-00000000aaaaaaaa1", "p5.48xlarge", "10.0.1.6"),
    ]
    keys = {"i-08087f0ebc1877e14": (KEY,), "i-head": (KEY,)}
    made = aws.node_entries(record(), found, keys)
    assert made == aws.node_entries(made, reversed(found), keys)
    node = made.node("fern-gpu-c1877e14")
    assert (node.gpus, node.gpu_type, node.spot, node.group) == (8, "h100", True, "gpu")
    assert set(made.host_keys) == {"10.0.1.5", "10.0.0.1"}


def test_what_the_cloud_still_owes_is_named() -> None:
    here = [aws.Instance("i-1", "p5.48xlarge", "10.0.1.5")]
    told = aws.missing_of(record(), 3, here, {"i-1": ()})
    assert told == [
        "2 of 3 nodes are not in service",
        "10.0.1.5 (i-1) has not published its host key",
        "fern-head (i-head) has not published its host key",
    ]
    keys = {"i-1": (KEY,), "i-head": (KEY,)}
    assert aws.missing_of(record(), 1, here, keys) == []
    assert aws.missing_of(record(cloud={"scaling_group": "x"}), 1, here, {}) == []


def test_quotas_are_counted_in_vcpus_by_family() -> None:
    assert quota_code("p4d.24xlarge", False) == quota_code("p5.48xlarge", False) == "L-417A185B"
    assert quota_code("g6.xlarge", True) == "L-3819A6DF"
    assert quota_code("trn1.32xlarge", False) != quota_code("t3.large", False) == "L-1216C47A"
    assert shortage("p5.48xlarge", 2, 192, 0, 384, False) is None
    text = shortage("p5.48xlarge", 2, 192, 96, 384, True)
    assert text is not None
    assert "2 x p5.48xlarge need 384 vCPUs spot, the quota is 384, 96 of them in use" in text


def test_a_subnet_must_hold_every_network_card() -> None:
    asked = preflight_aws.wanted({"instance_type": "p5.48xlarge", "instance_count": 7})
    free = preflight_aws.addresses_in("10.0.0.0/24")
    assert free == 251
    assert preflight_aws.judge_addresses(asked, 32, free, "10.0.0.0/24").failures == ()
    more = preflight_aws.wanted({"instance_type": "p5.48xlarge", "instance_count": 8})
    (failure,) = preflight_aws.judge_addresses(more, 32, free, "10.0.0.0/24").failures
    assert "251 addresses, 8 x p5.48xlarge with 32 network cards each need 264" in failure
    assert preflight_aws.addresses_in("nonsense") is None


def jwt(until: float) -> str:
    body = base64.urlsafe_b64encode(json.dumps({"exp": until}).encode()).decode().rstrip("=")
    return f"head.{body}.sign"


@pytest.mark.parametrize(
    ("token", "gist_of_it"),
    [
        (jwt(999), "has expired"),
        (jwt(1000 + 120), "expires in 2 min"),
        (jwt(1000 + 7200), None),
        ("opaque-token", None),
        ("a.b.c", None),
        ("v1.CmFiYw.x\n", "spaces or line ends"),
    ],
)
def test_a_token_is_judged_by_its_own_expiry(token: str, gist_of_it: str | None) -> None:
    found = preflight_nebius.judge_token(token, 1000)
    assert (found is None) if gist_of_it is None else (found and gist_of_it in found)


def test_nebius_credentials_are_whole_and_their_key_is_a_key(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    env = {"NB_SA_ID": "a", "NB_AUTHKEY_PUBLIC_ID": "b", "NB_AUTHKEY_PRIVATE_PATH": str(key)}
    assert "no file that can be read" in preflight_nebius.credentials(env).failures[0]
    key.write_text("x")
    assert "no private key in PEM form" in preflight_nebius.credentials(env).failures[0]
    key.write_text("-----BEGIN PRIVATE" + " KEY-----\n")
    assert preflight_nebius.credentials(env).failures == ()


def test_a_fabric_needs_a_preset_of_eight_gpus() -> None:
    one = {"instance_type": "gpu-h100-sxm/1gpu-16vcpu-200gb", "infiniband_fabric": "fabric-3"}
    (failure,) = preflight_nebius.check(one).failures
    assert "fabric fabric-3 does not fit preset 1gpu-16vcpu-200gb" in failure
    eight = {"instance_type": "gpu-h100-sxm/8gpu-128vcpu-1600gb", "enable_infiniband": True}
    assert "needs infiniband_fabric" in preflight_nebius.check(eight).failures[0]
    assert preflight_nebius.check({**eight, "infiniband_fabric": "fabric-3"}).failures == ()
    assert "is not PLATFORM/PRESET" in preflight_nebius.check({"instance_type": "h100"}).failures[0]


def test_a_sweep_deletes_what_others_hang_on_last() -> None:
    kinds = ["VPC", "subnet", "bucket", "instance", "security group", "auto-scaling group", "other"]
    order = [one.kind for one in in_order(Leftover(kind, "x") for kind in kinds)]
    assert order == [
        "auto-scaling group", "instance", "security group", "subnet", "VPC", "bucket",
    ]  # fmt: skip


def test_nebius_leftovers_are_those_with_the_clusters_label() -> None:
    items = [
        {"metadata": {"id": "a", "labels": {"dto-cluster": "fern"}}},
        {"metadata": {"id": "b", "labels": {"dto-cluster": "moss"}}},
        {"metadata": {"id": "c"}},
    ]
    found = parse("disk", ("compute", "disk"), json.dumps({"items": items}), "fern")
    assert [str(one) for one in found] == ["disk a (nebius compute disk delete --id a)"]
    assert parse("disk", ("compute", "disk"), "", "fern") == []


def test_a_bucket_is_kept_with_its_settings_and_lustre_cannot_stay() -> None:
    def made(address: str, **values: str) -> Resource:
        return Resource(address, address.split(".")[0], values)

    stores = data.stores_in(
        [
            made("aws_s3_bucket.a", id="fern-1", bucket="fern-1"),
            made("aws_s3_bucket_versioning.a", bucket="fern-1"),
            made("aws_s3_bucket_policy.b", bucket="other"),
            made("aws_efs_file_system.c", id="fs-1"),
            made("aws_efs_mount_target.c", file_system_id="fs-1"),
            made("aws_efs_backup_policy.c", file_system_id="fs-1"),
            made("aws_fsx_lustre_file_system.d", id="fs-2"),
        ]
    )
    assert [(str(one), one.can_stay, one.addresses) for one in stores] == [
        ("bucket fern-1", True, ("aws_s3_bucket.a", "aws_s3_bucket_versioning.a")),
        ("EFS fs-1", True, ("aws_efs_file_system.c", "aws_efs_backup_policy.c")),
        ("FSx for Lustre fs-2", False, ("aws_fsx_lustre_file_system.d",)),
    ]
    words = data.staying(stores[0], "eu-north-1")
    assert "terraform import 'aws_s3_bucket.a' fern-1" in words


def test_terraforms_frames_become_one_line(tmp_path: Path) -> None:
    said = (
        "╷\n│ \x1b[31mError: \x1b[0mInvalid thing\n│ \n│   with aws_vpc.x,\n"
        '│   on main.tf line 3, in resource "aws_vpc" "x":\n│    3: cidr = 1\n│ \n'
        "│ It must be\n│ a block:\n│ not a word.\n│ \n│ See there.\n╵\n╷\n│ Error: Another\n╵\n"
    )
    assert gist(said) == "Invalid thing: It must be a block: not a word. (and 1 more)"
    assert gist("") == "it failed without a word"
    lock = (
        "│ Error: Error acquiring the state lock\n│ Lock Info:\n│   ID:        abc-1\n"
        "│   Who:       me@here\n│   Created:   2026-01-02 03:04:05 UTC\n"
    )
    from dto.cluster.cloud.live import Ended

    told = str(Terraform(tmp_path)._failure("apply", Ended(1, lock, False)))
    assert told.startswith("me@here has locked the state since 2026-01-02 03:04:05")
    assert told.endswith(f"if it is dead: terraform -chdir={tmp_path} force-unlock abc-1")


def test_answers_of_the_last_time_come_before_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terraform = Terraform(tmp_path, ("-var=a=1", "-var=b=x=y", "-var-file=/f"))
    terraform.remember({"cidr": ["10.0.0.0/8"], "name": "fern"})
    monkeypatch.setenv("TF_VAR_name", "moss")
    found = terraform.environment()
    assert found["TF_VAR_cidr"] == '["10.0.0.0/8"]'
    assert found["TF_VAR_name"] == "moss"
    assert terraform.typed_names() == {"a", "b"}
    assert terraform.private.stat().st_mode & 0o077 == 0


def test_variables_are_found_and_the_consoles_answer_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.tf").write_text(
        'variable "x" {}\nvariable "y" { type = string }\n# variable "z" {}\n'
        'terraform { required_providers { aws = { source = "hashicorp/aws" } } }\n'
    )
    assert declared(tmp_path) == ["x", "y"]
    assert provider_in(tmp_path) == "aws"
    said = '{\n  "x" = "[\\"a$${b}\\"]"\n  "y" = (known after apply)\n  "z" = "null"\n}\n'
    assert parse_console(said) == {"x": ["a${b}"]}
    assert parse_console("") == {}


def test_the_folder_is_a_clouds_own_or_any_with_terraform_in_it(tmp_path: Path) -> None:
    def quiet(text: str) -> None:
        raise AssertionError(text)

    assert find_root("aws", tmp_path, quiet).parts[-2:] == ("terraform", "aws")
    with pytest.raises(UsageError, match=r"no \*\.tf in the current folder"):
        find_root(None, tmp_path, quiet)
    (tmp_path / "main.tf").touch()
    assert find_root(None, tmp_path, quiet) == tmp_path
    assert find_root(str(tmp_path), Path("/"), quiet) == tmp_path


def test_a_record_without_a_scaling_group_needs_no_cloud() -> None:
    plain = record(cloud={}, nodes=[{"name": "n", "address": "10.0.0.9"}])
    assert aws.with_nodes(plain, 60, print) == (plain, [])
    with pytest.raises(ConfigError):
        record(cloud={"host_keys": "no/slash"})


def test_a_wheel_has_the_roots_and_nobodys_state(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "dto/__init__.py", "terraform/aws"):
        source, target = REPOSITORY / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(".terraform", "*.tf*e*"))
        else:
            shutil.copy(source, target)
    for name in ("ansible", "examples", "scripts", "templates"):
        (tmp_path / name).mkdir()
    root = tmp_path / "terraform" / "aws"
    (root / ".terraform" / "dto").mkdir(parents=True)
    for name in ("terraform.tfstate", "terraform.tfstate.backup", "mine.auto.tfvars",
                 ".terraform/dto/variables.json"):  # fmt: skip
        (root / name).write_text("secret")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "dto/_data/terraform/aws/main.tf" in names
    assert not [name for name in names if "state" in name or "tfvars" in name.split(".")[-1:]]
    assert not [name for name in names if ".terraform/" in name]
