"""The AWS module's texts: what is declared is used, passed on and told in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

MODULE = REPOSITORY / "terraform/modules/horovod-hpc"
ROOT = REPOSITORY / "terraform/aws"
DOCS = REPOSITORY / "docs/clouds.md"
OF_OTHERS = """
cluster_name environment region arn_prefix tags instance_type instance_count ami_id create_vpc
vpc_cidr public_subnet_cidr private_subnet_cidr existing_vpc_id existing_public_subnet_id
existing_private_subnet_id use_public_subnet create_nat_gateway allowed_cidr_blocks enable_efa
placement_group_strategy nccl_port_range create_ssh_key existing_key_pair_name
existing_private_key_path setup_passwordless_ssh save_private_key_locally
secret_recovery_window_days root_volume_type root_volume_size root_volume_iops
root_volume_throughput enable_ebs_encryption additional_ebs_volumes shared_storage_mount_point
s3_bucket_arn horovod_version nccl_version cuda_version enable_monitoring
enable_detailed_monitoring
""".split()
"""The variables that a user of the module's forerunner knows."""
OUTPUTS_OF_OTHERS = """
cluster_name cluster_region total_gpus gpus_per_instance instance_ids instance_details master_node
worker_nodes vpc_id public_subnet_id private_subnet_id security_group_id placement_group_name
ssh_key_name use_secrets_manager secret_name cloudwatch_log_group iam_instance_profile_arn
""".split()


def blocks(folder: Path, kind: str) -> dict[str, str]:
    text = "\n".join(path.read_text() for path in sorted(folder.glob("*.tf")))
    found = re.finditer(rf'^{kind} "(\w+)" \{{\n(.*?)^\}}', text, re.MULTILINE | re.DOTALL)
    return {match[1]: match[2] for match in found}


def without_rules(block: str) -> str:
    """A variable's block as far as a root must say the same: all but its validations."""
    bare = re.sub(r"^  validation \{\n.*?^  \}\n", "", block, flags=re.MULTILINE | re.DOTALL)
    bare = re.sub(r"^  #.*\n", "", bare, flags=re.MULTILINE)
    return re.sub(r"\s+", " ", bare).strip()


def without_variables(folder: Path) -> str:
    files = [path for path in folder.glob("*.tf") if not path.name.startswith("variables")]
    return "\n".join(path.read_text() for path in files)


def named_in_table(heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    section = DOCS.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_variable_is_used() -> None:
    text = without_variables(MODULE)
    unused = [name for name in blocks(MODULE, "variable") if f"var.{name}" not in text]
    assert unused == []


def test_every_variable_is_described_and_typed() -> None:
    for name, block in blocks(MODULE, "variable").items():
        assert re.search(r'^  description = ".+[.:]', block, re.MULTILINE), name
        assert re.search(r"^  type\s+= ", block, re.MULTILINE), name


@pytest.mark.parametrize("kind", ["variable", "output"])
def test_the_root_passes_everything_on(kind: str) -> None:
    ours, theirs = blocks(ROOT, kind), blocks(MODULE, kind)
    assert list(ours) and set(ours) == set(theirs)
    if kind == "variable":
        for name, block in theirs.items():
            assert without_rules(ours[name]) == without_rules(block), name
            assert re.search(rf"^  {name}\s+= var\.{name}$", (ROOT / "main.tf").read_text(), re.M)


def test_only_five_questions_are_asked() -> None:
    asked = [
        n for n, b in blocks(MODULE, "variable").items() if not re.search(r"^  default ", b, re.M)
    ]
    five = ["cluster_name", "region", "instance_type", "instance_count", "allowed_cidr_blocks"]
    assert sorted(asked) == sorted(five)


def test_the_docs_tell_every_variable_and_output() -> None:
    variables, outputs = named_in_table("AWS: every variable"), named_in_table("AWS: every output")
    assert set(blocks(MODULE, "variable")) | set(OF_OTHERS) == variables
    assert set(blocks(MODULE, "output")) | set(OUTPUTS_OF_OTHERS) == outputs


def test_the_lock_file_locks_aws_alone() -> None:
    text = (ROOT / ".terraform.lock.hcl").read_text()
    assert re.findall(r'^provider "(.+)"', text, re.M) == ["registry.terraform.io/hashicorp/aws"]
