"""The AWS module by Terraform's own means: its tests with mocks, its form, its examples."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from pathlib import Path

import pytest

from tests.cloud.terraform import PLUGINS, Terraform, copy_root
from tests.helpers import REPOSITORY, cannot

pytestmark = pytest.mark.cloud

TERRAFORM = REPOSITORY / "terraform"
CHECKOV = "checkov==3.3.30"
ANSWERS = {
    "allowed_cidr_blocks": '["203.0.113.7/32"]',
    "availability_zone": '"eu-north-1a"',
    "capacity_reservation_id": '"cr-0123456789abcdef0"',
    "private_subnet_id": '"subnet-0123456789abcdef1"',
    "public_subnet_id": '"subnet-0123456789abcdef0"',
    "vpc_id": '"vpc-0123456789abcdef0"',
}


def examples() -> list[Path]:
    folders = sorted(path.parent for path in (TERRAFORM / "examples").glob("*/main.tf"))
    return [one for one in folders if "modules/horovod-hpc" in (one / "main.tf").read_text()]


@pytest.mark.timeout(420)
def test_every_choice_and_refusal_by_terraforms_own_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terraform = Terraform(copy_root("modules/horovod-hpc", tmp_path))
    terraform.init()
    done = terraform.run("test", timeout=400)
    summary = re.search(r"(?:Success|Failure)! \d+ passed, \d+ failed.*", done.stdout)
    assert done.returncode == 0 and summary, done.stdout + done.stderr
    with capsys.disabled():
        print(f"\nterraform test, modules/horovod-hpc: {summary[0]}")


def test_everything_is_formatted() -> None:
    done = Terraform(TERRAFORM).run("fmt", "-check", "-recursive")
    assert done.returncode == 0, f"run `terraform fmt -recursive terraform`:\n{done.stdout}"


@pytest.mark.timeout(240)
def test_every_example_is_valid_and_asks_what_its_variables_say(tmp_path: Path) -> None:
    """One root that uses all examples as modules: one look at the provider's schema for all."""
    copy_root("examples", tmp_path)
    assert len(examples()) == 6
    calls = []
    for example in examples():
        asked = re.findall(r'^variable "(\w+)"', (example / "main.tf").read_text(), re.M)
        values = "".join(f"  {name} = {ANSWERS[name]}\n" for name in asked)
        source = f"./examples/{example.name}"
        calls.append(f'module "{example.name}" {{\n  source = "{source}"\n{values}}}\n')
    (tmp_path / "main.tf").write_text("\n".join(calls))
    terraform = Terraform(tmp_path)
    terraform.init("-backend=false")
    terraform.validate()


def fake(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """deploy.sh beside a cluster-setup.sh and a terraform that only say what they were told."""
    copy_root("examples", tmp_path / "terraform")
    log = tmp_path / "log"
    fake(tmp_path / "scripts/cluster-setup.sh", f'echo "setup $*" >>{log}')
    fake(tmp_path / "bin/terraform", f'echo "terraform $*" >>{log}\n[ "$2" != "$FAILS" ]')
    return tmp_path / "terraform/examples/deploy.sh"


def run_deploy(script: Path, *args: str, fails: str = "") -> tuple[int, list[str]]:
    bin = script.parents[2] / "bin"
    path = f"{bin}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script), *args], env={**os.environ, "PATH": path, "FAILS": fails}, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    log = script.parents[2] / "log"
    return done.returncode, log.read_text().splitlines() if log.exists() else []


def test_deploy_applies_and_then_sets_the_cluster_up(deploy: Path) -> None:
    folder = deploy.parent / "spot"
    code, said = run_deploy(deploy, str(folder), "--", "-auto-approve")
    assert code == 0
    assert said == [
        f"terraform -chdir={folder} init -input=false",
        f"terraform -chdir={folder} apply -auto-approve",
        f"setup --from-terraform {folder}",
    ]


def test_deploy_sets_nothing_up_where_apply_failed(deploy: Path) -> None:
    code, said = run_deploy(deploy, fails="apply")
    assert code != 0 and not any(line.startswith("setup") for line in said)


@pytest.mark.parametrize("args", [["--help"], ["nowhere"], ["smallest", "extra"]])
def test_deploy_refuses_what_it_does_not_know(deploy: Path, args: list[str]) -> None:
    code, said = run_deploy(deploy, *args)
    assert code == 2 and said == []


@pytest.mark.timeout(420)
def test_checkov_finds_nothing_that_is_not_excused_in_its_place() -> None:
    checkov = private_checkov()
    done = subprocess.run(
        [checkov, "-d", TERRAFORM, "--framework", "terraform", "--quiet", "--compact",
         "--skip-download"], text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    for path in TERRAFORM.rglob("*.tf"):
        for line in path.read_text().splitlines():
            if "checkov:skip" in line:
                assert re.search(r"#checkov:skip=CKV\w+:\w+", line), f"{path}: no reason: {line}"


def private_checkov() -> Path:
    """checkov in an environment of its own: it wants an older boto3 than we do."""
    folder = PLUGINS / CHECKOV.replace("==", "-")
    program = folder / "bin" / "checkov"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [folder / "bin/python", "-m", "pip", "install", "-q", CHECKOV]
        done = subprocess.run(install, text=True, capture_output=True, timeout=300)
        if done.returncode != 0:
            cannot(f"pip could not install {CHECKOV}: {done.stderr[-300:]}")
        (folder / "complete").touch()
    return program
