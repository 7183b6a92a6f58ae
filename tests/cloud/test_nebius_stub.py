"""The stub that stands for Nebius' provider: it refuses what the schema and the rules refuse."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.nebius import rules
from tests.cloud.nebius.cluster import Nebius, plain
from tests.cloud.nebius.schema import completed, read_schemas, replaced_by
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.cloud

INSTANCE = "nebius_compute_v1_instance"
# file of the module, what is written there, what in its place, what Terraform says
BROKEN = [
    ("nodes.tf", "recovery_policy =", "recovry_policy =", 'Did you mean "recovery_policy"?'),
    ("nodes.tf", "    ip_address        = {}\n", "", 'attribute "ip_address" is required'),
    ("storage.tf", "  size_gibibytes = each.value\n", "  size = each.value\n", 'named "size"'),
    ("storage.tf", "  type           = var.shared_storage_type\n", "", '"type" is required'),
    ("network.tf", 'access    = "ALLOW"', 'access    = "allow"', "'allow' is none of ALLOW, DENY"),
    ("nodes.tf", 'on_preemption = "STOP"', 'on_preemption = "KILL"', "'KILL' is none of STOP"),
    ("head.tf", "existing_disk = {", "managed_disk = {", '"name" and "spec" are required'),
]


@pytest.fixture(scope="module")
def nebius(tmp_path_factory: pytest.TempPathFactory) -> Nebius:
    made = Nebius(tmp_path_factory.mktemp("nebius"))
    made.terraform.init()
    return made


@pytest.fixture
def modules(nebius: Nebius) -> Iterator[Path]:
    """The module of the test's own copy, put right again afterwards."""
    kept = {path: path.read_text() for path in nebius.modules.glob("*.tf")}
    yield nebius.modules
    for path, text in kept.items():
        path.write_text(text)


@pytest.mark.parametrize(("name", "old", "new", "words"), BROKEN)
def test_what_the_schema_does_not_have_is_refused(
    nebius: Nebius, modules: Path, name: str, old: str, new: str, words: str
) -> None:
    file = modules / name
    text = re.sub(re.escape(old).replace(r"\ ", " +"), lambda _: new, file.read_text(), count=1)
    assert text != file.read_text()
    file.write_text(text)
    done = nebius.terraform.run("plan", *nebius.given(capacity_type="spot"))
    assert done.returncode == 1
    assert words in plain(done.stderr)


def test_two_machines_on_one_boot_disk_are_refused(nebius: Nebius, modules: Path) -> None:
    file = modules / "nodes.tf"
    file.write_text(file.read_text().replace("disk.node[each.key].id }", "disk.head.id }"))
    done = nebius.terraform.run("apply", "-auto-approve", *nebius.given())
    assert done.returncode == 1
    assert "is attached to" in plain(done.stderr)
    nebius.terraform.destroy(*nebius.given())
    assert nebius.existing() == {}


def test_every_resource_of_the_module_stands_in_the_schema() -> None:
    schemas = read_schemas()
    module = REPOSITORY / "terraform" / "modules" / "nebius-hpc"
    text = "".join(path.read_text() for path in module.glob("*.tf"))
    used = set(re.findall(r'^(resource|data) "(nebius_\w+)"', text, re.M))
    assert used <= schemas.keys()
    assert len([name for role, name in schemas if role == "resource"]) == 12


def test_one_of_several_is_asked_for_and_what_is_unknown_is_let_through() -> None:
    disk = {"existing_disk": None, "managed_disk": None}
    told = list(rules.problems(INSTANCE, {"boot_disk": disk}))
    assert told == ["boot_disk.existing_disk or managed_disk: give exactly one of them"]
    assert not list(rules.problems(INSTANCE, {"boot_disk": {**disk, "managed_disk": object()}}))
    rule = {"ingress": {"source_cidrs": ["10.0.0.0/8"] * 9}, "egress": None, "priority": 1001}
    assert list(rules.problems("nebius_vpc_v1_security_rule", rule)) == [
        "ingress.source_cidrs: at most 8, not 9", "priority: 1001 is not from 0 to 1000"
    ]  # fmt: skip
    sizes = {"size_bytes": 1, "size_gibibytes": 1}
    assert list(rules.problems("nebius_compute_v1_disk", sizes)) == [
        "size_bytes and size_gibibytes: give only one of them"
    ]


def test_a_change_deep_inside_makes_the_resource_anew_where_the_schema_says_so() -> None:
    fields = read_schemas()["resource", INSTANCE]
    old = {
        "resources": {"platform": "a", "preset": "b"},
        "network_interfaces": [{"subnet_id": "s"}],
    }
    assert not replaced_by(fields, old, {**old, "resources": {"platform": "a", "preset": "c"}})
    assert replaced_by(fields, old, {**old, "resources": {"platform": "x", "preset": "b"}})
    assert replaced_by(fields, old, {**old, "network_interfaces": [{"subnet_id": "t"}]})
    full = completed(fields, {"boot_disk": {"attach_mode": "READ_WRITE"}})
    assert full["boot_disk"]["managed_disk"] is None and full["status"] is None


def test_terraform_finds_its_own_form_in_every_file() -> None:
    places = [REPOSITORY / "terraform" / name for name in ("nebius", "modules/nebius-hpc")]
    places += sorted((REPOSITORY / "terraform" / "examples").glob("nebius-*"))
    command = ["terraform", "fmt", "-check", "-diff", *map(str, places)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout
