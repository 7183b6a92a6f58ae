"""What a cluster left on Nebius is found and deleted, in an order that the cloud accepts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dto.cluster.cloud import sweep_nebius, sweep_nebius_delete
from dto.cluster.cloud.sweep import Found
from tests.cloud.nebius import program, store
from tests.cloud.nebius.cluster import EIGHT, FIVE, Nebius
from tests.helpers import dto

pytestmark = pytest.mark.cloud

PROJECT = str(FIVE["project_id"])
DOWN = ("cluster", "down", "--cluster-name", "lab", "--region", PROJECT)
DATA = {"compute_v1_disk", "compute_v1_filesystem", "storage_v1_bucket"}


class Lost:
    """A cloud with two clusters, and nobody who has their states any more."""

    def __init__(self, folder: Path) -> None:
        self.nebius = Nebius(folder)
        self.nebius.terraform.init()
        given = {"instance_type": EIGHT, "infiniband_fabric": "fabric-3"}
        for name in ("moor", "lab"):
            self.nebius.apply(**given, cluster_name=name, instance_count=1)
            (self.nebius.folder / "terraform.tfstate").unlink()
        self.folder = folder
        self.store = folder / "store.json"
        self.environment = program.install(folder / "bin", self.store)

    def type(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **self.environment}
        return dto(*DOWN, *words, env=env, cwd=self.folder)

    def kinds(self, name: str) -> set[str]:
        """What exists of a cluster; all of it has its label."""
        found = store.exists(self.store).values()
        label = "dto-cluster"
        return {
            entry["kind"].removeprefix("nebius_")
            for entry in found
            if (entry["values"].get("labels") or {}).get(label) == name
        }


@pytest.mark.timeout(300)
def test_all_that_is_left_without_a_state_goes_in_one_sweep(tmp_path: Path) -> None:
    lost = Lost(tmp_path)
    everything = lost.kinds("lab")
    found = lost.type()
    assert found.returncode == 1, found.stderr
    assert "left: instance computeinstance-e00" in found.stdout
    assert f"to delete it: dto {' '.join(DOWN)} --sweep" in found.stdout
    assert lost.kinds("lab") == everything == lost.kinds("moor") and len(everything) == 10

    careful = lost.type("--sweep", "--yes")
    assert careful.returncode == 2 and lost.kinds("lab") == everything
    assert "may hold data: say --keep-data or --delete-data" in careful.stderr

    kept = lost.type("--sweep", "--yes", "--keep-data")
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert lost.kinds("lab") == DATA
    assert "kept: filesystem computefilesystem-e00" in kept.stdout
    assert kept.stdout.splitlines()[-1] == f"nothing else is left of cluster lab in {PROJECT}"

    swept = lost.type("--sweep", "--yes", "--delete-data")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert swept.stdout.splitlines()[-1] == f"nothing is left of cluster lab in {PROJECT}"
    assert lost.kinds("lab") == set() and lost.kinds("moor") == everything
    refusals = [line for line in swept.stderr.splitlines() + kept.stderr.splitlines() if line]
    assert refusals == []


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cloud, and the program in this process's PATH."""
    for name, value in program.install(tmp_path / "bin", tmp_path / "store.json").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "store.json"


def put(cloud: Path, **things: dict[str, Any]) -> None:
    """Let things exist, by id; all have the label, but for those that say otherwise."""
    known = {"parent_id": PROJECT, "labels": {"dto-cluster": "lab"}}
    objects = {
        name: {"kind": f"nebius_{values.pop('kind')}", "values": {"id": name, **known, **values}}
        for name, values in things.items()
    }
    cloud.write_text(json.dumps({"made": 100, "objects": objects}))


def sweep() -> tuple[Found, list[str]]:
    said: list[str] = []
    found = sweep_nebius_delete.delete("lab", PROJECT, lambda one: False, said.append, 0)
    return found, said


def typed(cloud: Path, verb: str) -> list[str]:
    lines = (cloud.parent / "bin/log").read_text().splitlines()
    return [line for line in lines if line.split()[2] == verb]


def test_what_another_still_needs_is_tried_for_a_while_and_said_in_one_line(cloud: Path) -> None:
    put(
        cloud,
        net={"kind": "vpc_v1_network"},
        sub={"kind": "vpc_v1_subnet", "network_id": "net"},
        theirs={"kind": "compute_v1_instance", "labels": {}, "subnet_id": "sub"},
    )
    found, said = sweep()
    assert said == [] and {one.id for one in found.left} == {"net", "sub"}
    assert found.notes == (
        "subnet sub: ERROR: rpc error: code = FailedPrecondition desc = sub is in use by theirs",
        "network net: ERROR: rpc error: code = FailedPrecondition desc = net is in use by sub",
    )
    assert len(typed(cloud, "delete")) > 10


def test_what_we_may_not_do_is_not_tried_again(
    cloud: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.MAY_NOT, "delete disk")
    put(cloud, d={"kind": "compute_v1_disk"}, net={"kind": "vpc_v1_network"})
    found, said = sweep()
    assert said == ["deleted network net"]
    (note,) = found.notes
    assert note.startswith("disk d: ") and "no permission to delete a disk" in note
    assert typed(cloud, "delete").count("compute disk delete --id d") == 2


def test_rules_of_other_peoples_making_go_with_our_groups(cloud: Path) -> None:
    put(
        cloud,
        ours={"kind": "vpc_v1_security_group"},
        other={"kind": "vpc_v1_security_group"},
        rule={"kind": "vpc_v1_security_rule", "parent_id": "ours", "labels": None, "of": "other"},
    )
    found, said = sweep()
    assert found.left == ()
    assert said[0] == "deleted security rule rule" and len(said) == 3


def test_a_bucket_that_only_waits_for_its_end_is_purged(cloud: Path) -> None:
    waits = {"state": "SCHEDULED_FOR_DELETION"}
    put(
        cloud,
        old={"kind": "storage_v1_bucket", "status": waits},
        new={"kind": "storage_v1_bucket"},
    )
    left = {str(one) for one in sweep_nebius.find("lab", PROJECT).left}
    assert "bucket old (nebius storage bucket purge --id old)" in left
    found, _ = sweep()
    assert found.left == () and store.exists(cloud) == {}
    assert typed(cloud, "delete") == ["storage bucket delete --id new --ttl 0s"]


def test_a_listing_that_cannot_be_read_is_not_taken_for_an_empty_one(
    cloud: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.MAY_NOT, "list disk")
    found = sweep_nebius.find("lab", PROJECT)
    (unseen,) = found.unseen
    assert unseen.startswith("disk (ERROR: ") and "no permission to list a disk" in unseen
    (cloud.parent / "bin/nebius").write_text("#!/bin/sh\necho welcome\n")
    found = sweep_nebius.find("lab", PROJECT)
    assert len(found.unseen) == 9 and "what it said is no listing" in found.unseen[0]


def test_a_program_that_is_not_there_is_named_with_what_to_type(
    cloud: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found, _ = sweep()
    assert found.unseen and "nebius compute instance list --parent-id" in found.notes[0]
