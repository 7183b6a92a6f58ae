"""What terraform/nebius refuses before anything is made, each in plain words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.cloud.nebius.cluster import EIGHT, ONE, Nebius
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.cloud

ANY = "serviceaccount-e00any"
PRICED = {"instance_type": ONE, "capacity_type": "on-demand", "prices": {}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cluster_name": "Lab_1"}, "small letters, digits and '-'"),
    ({"project_id": "lab"}, "project_id must look like project-e00abcdef"),
    ({"tenant_id": "lab"}, "tenant_id must look like"),
    ({"region": "north"}, "region must look like eu-north1"),
    ({"environment": "My Lab"}, "environment must be"),
    ({"tags": {"dto-cluster": "x"}}, "must not start with dto-"),
    ({"instance_type": "h100"}, "must be <platform>/<preset>"),
    ({"instance_type": "cpu-d3/8gpu-128vcpu-1600gb"}, "a cpu-... platform one without"),
    ({"instance_count": 0}, "whole number from 1 to 256"),
    ({"instance_count": 1.5}, "whole number from 1 to 256"),
    ({"head_instance_type": EIGHT}, "must be a preset without GPUs"),
    ({"image_id": "computeimage-e00x", "image_family": "y"}, "Give image_id or image_family"),
    (
        {"instance_type": ONE, "infiniband_fabric": "fabric-3"},
        "only presets with 8 GPUs fit a GPU cluster",
    ),
    ({"instance_type": EIGHT}, "or set enable_infiniband = false"),
    ({"node_groups": {"big": {}}}, "the groups are gpu and cpu"),
    ({"allowed_cidr_blocks": []}, "nobody could reach the head"),
    ({"allowed_cidr_blocks": ["0.0.0.0/0"]}, "must not open ssh to the whole world"),
    ({"allowed_cidr_blocks": ["home"]}, "must be an IPv4 network"),
    ({"allowed_cidr_blocks": ["203.0.113.7/24"]}, "must be a network's own address"),
    ({"private_subnet_cidr": "10.0.0.0"}, "private_subnet_cidr must be an IPv4 network"),
    ({"private_subnet_cidr": "10.0.0.0/28"}, "take at least a /24"),
    ({"create_vpc": False}, "give both, or neither"),
    ({"root_volume_type": "gp3"}, "root_volume_type must be NETWORK_SSD"),
    ({"root_volume_size": 10}, "at least 50"),
    ({"shared_storage_mount_point": "/mnt"}, "belongs to the system"),
    ({"shared_storage_mount_point": "data"}, "must be an absolute path"),
    ({"shared_storage_type": "nfs"}, "shared_storage_type must be"),
    ({"shared_storage_size": 0}, "shared_storage_size must be"),
    ({"bucket_name": "A"}, "bucket_name must be 3 to 63"),
    ({"vm_username": "root"}, "keeps root and admin for itself"),
    ({"vm_username": "A B"}, "vm_username must be"),
    ({"vm_ssh_public_key_path": "/nowhere.pub"}, "make a key with ssh-keygen"),
    ({"vm_ssh_public_key_path": "/etc/hostname"}, "must be the public half of a key"),
    ({"head_service_account_id": "me"}, "must look like serviceaccount-"),
    ({"service_account_id": "me"}, "must look like serviceaccount-"),
    ({"capacity_type": "cheap"}, "must be on-demand, spot or reserved"),
    ({"capacity_type": "reserved"}, "give both or neither"),
    ({"prices": {"a": -1}}, "must not be below zero"),
    ({**PRICED, "budget": {"hours": 0}, "head_service_account_id": ANY}, "must be above zero"),
    (
        {**PRICED, "budget": {"hours": 5}, "head_service_account_id": None},
        "the head cannot switch nodes off",
    ),
    ({**PRICED, "budget": {"amount": 5}, "head_service_account_id": ANY}, "needs the nodes' price"),
    ({"auth": "password"}, "auth must be service-account"),
]


def packed() -> list[list[tuple[dict[str, Any], str]]]:
    """Cases of different variables go into one plan: Terraform tells all that is wrong at once.

    A rule about two variables is left out where one of them is wrong, so its case names both.
    """
    packs: list[list[tuple[dict[str, Any], str]]] = []
    for case in REFUSED:
        free = (p for p in packs if not any(case[0].keys() & other[0].keys() for other in p))
        if (pack := next(free, None)) is None:
            packs.append(pack := [])
        pack.append(case)
    return packs


@pytest.fixture(scope="module")
def nebius(tmp_path_factory: pytest.TempPathFactory) -> Nebius:
    made = Nebius(tmp_path_factory.mktemp("nebius"))
    made.terraform.init()
    return made


@pytest.mark.parametrize("cases", packed())
def test_bad_values_are_refused(nebius: Nebius, cases: list[tuple[dict[str, Any], str]]) -> None:
    said = nebius.refusal(**{name: value for case, _ in cases for name, value in case.items()})
    assert [words for _, words in cases if words not in said] == [], said


def test_a_project_of_another_tenant_is_refused(nebius: Nebius) -> None:
    assert "not to tenant_id; nothing was made" in nebius.refusal(tenant_id="tenant-e00other")


def test_only_five_things_are_asked_for(nebius: Nebius) -> None:
    said = nebius.refusal(**dict.fromkeys(
        ("cluster_name", "project_id", "instance_type", "instance_count", "allowed_cidr_blocks",
         "vm_ssh_public_key_path")
    ))  # fmt: skip
    missing = said.count("No value for required variable")
    assert missing == 5, said


def test_a_variable_of_the_service_account_that_is_not_set_is_named(nebius: Nebius) -> None:
    known = dict(nebius.terraform.environment)
    del nebius.terraform.environment["NB_AUTHKEY_PUBLIC_ID"]
    try:
        assert "variable NB_AUTHKEY_PUBLIC_ID is not set" in nebius.refusal()
    finally:
        nebius.terraform.environment = known


def test_a_token_is_enough(nebius: Nebius) -> None:
    known = dict(nebius.terraform.environment)
    kept = {name: value for name, value in known.items() if not name.startswith("NB_")}
    nebius.terraform.environment = kept
    try:
        assert "no service account, token or profile" in nebius.refusal(auth="token")
        nebius.terraform.environment["NEBIUS_IAM_TOKEN"] = "a-token-of-a-test"
        assert "17 to add" in nebius.plan(auth="token")
    finally:
        nebius.terraform.environment = known


def test_what_has_a_variable_of_its_own_reaches_the_machines(nebius: Nebius) -> None:
    plan = nebius.plan(
        instance_type=EIGHT, enable_infiniband=False, use_public_subnet=True,
        image_id="computeimage-e00own", root_volume_size=321, root_volume_type="NETWORK_HDD",
        capacity_type="reserved", capacity_reservation_id="reservation-e00x", tags={"team": "x"},
        environment="prod", service_account_id=ANY, private_subnet_cidr="10.9.0.0/20",
        shared_storage_size=77, shared_storage_type="WEKA",
        bucket_name="my-bucket", enable_monitoring=True, vm_username="ann", region="eu-west1",
        shared_storage_mount_point="/data/all", head_is_proxy=False,
        existing_private_key_path="~/.ssh/other", head_image_family="ubuntu22.04-driverless",
    )  # fmt: skip
    for text in (
        '"computeimage-e00own"', "size_gibibytes      = 321", '"NETWORK_HDD"', '"STRICT"',
        '"reservation-e00x"', '"team"            = "x"', '"dto-environment" = "prod"', f'"{ANY}"',
        '"10.9.0.0/20"', "size_gibibytes   = 77", '"WEKA"', '"my-bucket"', '"eu-west1"',
        '"/data/all"', '"~/.ssh/other"', '"ubuntu22.04-driverless"', 'user    = "ann"',
    ):  # fmt: skip
        assert plain_spaces(text) in plain_spaces(plan), text
    assert "gpu_cluster.this" not in plan


def plain_spaces(text: str) -> str:
    return " ".join(text.split())


def test_every_variable_is_described_and_every_one_of_the_module_can_be_said_in_the_root() -> None:
    found: dict[str, dict[str, str]] = {}
    for name in ("nebius", "modules/nebius-hpc"):
        text = "".join(p.read_text() for p in (REPOSITORY / "terraform" / name).glob("*.tf"))
        blocks = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.M | re.S)
        found[name] = dict(blocks)
        for variable, body in blocks:
            assert re.search(r'description += ".{20,}"', body), variable
            assert re.search(r"^  type +=", body, re.M), variable
            assert len(re.findall(rf"\bvar\.{variable}\b", text)) >= 1, f"{variable} is not used"
    assert set(found["nebius"]) - {"auth"} == set(found["modules/nebius-hpc"])


def test_the_page_tells_of_every_variable_and_output() -> None:
    page = (REPOSITORY / "docs" / "clouds.md").read_text()
    section = page[page.index("## Nebius") :]
    module = REPOSITORY / "terraform" / "modules" / "nebius-hpc"
    text = "".join(path.read_text() for path in module.glob("*.tf"))
    named = re.findall(r'^(?:variable|output) "(\w+)"', text, re.M)
    assert [name for name in named if f"`{name}`" not in section] == []
