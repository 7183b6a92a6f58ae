"""What Ansible and ssh make of the inventory, asked of themselves."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dto import __version__
from dto.cluster.ansible_inventory import Operator, ansible_inventory, write_inventory
from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.sources import local_record
from tests.unit.cluster_records import needs, record, small

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster.yaml"


def hosts(found: DtoCluster, operator: Operator | None = None) -> dict[str, Any]:
    variables = ansible_inventory(found, operator)["_meta"]["hostvars"]
    assert isinstance(variables, dict)
    return variables


def test_the_roles_find_every_variable_that_they_read(tmp_path: Path) -> None:
    operator = Operator(wheel=tmp_path / "dto.whl", tree=tmp_path, node_pyz=tmp_path / "n.pyz")
    found = record(
        users=[{"name": "ada", "uid": 2001}], slurm={"settings": {"KillWait": "90"}, "max_nodes": 9}
    )
    inventory = ansible_inventory(found, operator)
    shared = inventory["cluster"]["vars"]
    assert shared["dto_cluster_name"] == "lab" and shared["dto_version"] == __version__
    assert (shared["dto_head_name"], shared["dto_head_address"]) == ("lab-head", "10.0.0.1")
    assert [m["name"] for m in shared["dto_members"]] == ["lab-head", "lab-001", "lab-002"]
    assert shared["dto_users"] == [{"name": "ada", "uid": 2001, "keys": [], "sudo": False}]
    assert shared["dto_login_user"] == "root"
    assert shared["dto_shared"] == {
        "kind": "nfs",
        "source": None,
        "path": "/shared",
        "options": "",
    }
    assert shared["dto_slurm"] == {
        "max_nodes": 9,
        "accounting": False,
        "proctrack": "cgroup",
        "task_plugin": "cgroup,affinity",
        "settings": {"KillWait": "90"},
    }
    assert shared["dto_partitions"][-1] == {
        "name": "all",
        "feature": None,
        "default": True,
        "max_time": "1-00:00:00",
    }
    assert set(shared["dto_monitoring"]) == {"node_exporter", "dcgm", "prometheus", "grafana"}
    assert shared["dto_software"] == {
        "python": None,
        "wheels": None,
        "horovod": True,
        "torch": "auto",
    }
    assert shared["dto_wheel"] == f"{tmp_path}/dto.whl" and shared["dto_tree"] == str(tmp_path)
    assert shared["dto_node_pyz"] == f"{tmp_path}/n.pyz" and "dto_record" not in shared
    assert (inventory["head"], inventory["nodes"]) == (
        {"hosts": ["lab-head"]},
        {"hosts": ["lab-001", "lab-002"]},
    )


def test_a_host_knows_its_own_hardware() -> None:
    found = hosts(record(node_groups={"gpu": {"features": ["nvlink"], "gpu_type": "h100"}}))
    node = found["lab-001"]
    assert (node["dto_name"], node["dto_address"], node["dto_group"]) == (
        "lab-001",
        "10.0.0.2",
        "gpu",
    )
    assert (node["dto_gpus"], node["dto_gpu_type"]) == (2, "h100")
    assert node["dto_gpu_files"] == ["/dev/nvidia0", "/dev/nvidia1"]
    assert node["dto_features"] == ["gpu", "nvlink"]
    assert (found["lab-head"]["dto_gpus"], found["lab-head"]["dto_features"]) == (0, [])


def test_this_machine_takes_no_ssh_and_stands_in_both_groups() -> None:
    inventory = ansible_inventory(local_record("solo", "box", "10.0.0.7", gpus=1))
    assert inventory["head"] == inventory["nodes"] == {"hosts": ["box"]}
    variables = inventory["_meta"]["hostvars"]["box"]
    assert variables["ansible_connection"] == "local" and variables["dto_gpus"] == 1
    assert "ansible_user" not in variables and "ansible_ssh_common_args" not in variables


def ssh_settings(arguments: list[str]) -> dict[str, str]:
    """What ssh itself makes of its options."""
    command = ["ssh", "-F", "/dev/null", "-G", *arguments, "10.9.9.9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    pairs = (line.partition(" ") for line in done.stdout.splitlines())
    return {key: value for key, _, value in pairs}


@needs("ssh")
def test_ssh_reads_only_the_clusters_own_known_hosts_also_on_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "a b%h"
    key = f"{folder}/id"
    raw = small(ssh={"user": "ubuntu", "port": 2222, "key": key, "bastion": "me@gate:2200"})
    raw["nodes"][0]["public_address"] = "198.51.100.7"
    found = hosts(parse_record(raw, "t"), Operator(known_hosts=folder / "known_hosts"))
    direct, jumped = found["lab-001"], found["lab-002"]
    assert (direct["ansible_host"], jumped["ansible_host"]) == ("198.51.100.7", "10.0.0.3")
    assert (jumped["ansible_port"], jumped["ansible_user"]) == (2222, "ubuntu")
    assert jumped["ansible_ssh_private_key_file"] == key.replace("%", "%%")
    assert "ProxyCommand" not in direct["ansible_ssh_common_args"]

    outer = ssh_settings(shlex.split(jumped["ansible_ssh_common_args"]))
    assert outer["userknownhostsfile"].strip('"') == f"{folder}/known_hosts"
    assert outer["stricthostkeychecking"] in ("true", "yes")
    assert (outer["globalknownhostsfile"], outer["batchmode"]) == ("/dev/null", "yes")
    assert outer["identitiesonly"] == "yes"

    once = outer["proxycommand"].replace("%%", "%")  # what ssh does before it starts the command
    program, *inner = shlex.split(once)
    assert (program, inner[-1]) == ("ssh", "gate")
    way = ssh_settings(inner[: inner.index("-W")])
    assert way["userknownhostsfile"].strip('"') == f"{folder}/known_hosts"
    assert way["stricthostkeychecking"] in ("true", "yes")
    assert (way["port"], way["user"]) == ("2200", "me")
    assert way["identityfile"].strip('"') == key.replace("%", "%%")
    assert inner[inner.index("-W") + 1] == "[%h]:%p"


def test_a_home_path_is_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    found = record(ssh={"key": "~/.ssh/id"}, software={"wheels": "~/wheels"})
    assert hosts(found)["lab-001"]["ansible_ssh_private_key_file"] == "/home/ada/.ssh/id"
    shared = ansible_inventory(found)["cluster"]["vars"]
    assert shared["dto_software"]["wheels"] == "/home/ada/wheels"


def read_by_ansible(inventory: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "ansible", "inventory", "-i", str(inventory), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


needs_ansible = pytest.mark.skipif(
    importlib.util.find_spec("ansible") is None and os.environ.get("CI") != "true",
    reason="needs Ansible (dto[cluster])",
)


@needs_ansible
def test_ansible_reads_the_file_that_is_written(tmp_path: Path) -> None:
    found = record()
    write_inventory(tmp_path / "inventory.json", found, Operator(known_hosts=tmp_path / "k"))
    read = read_by_ansible(tmp_path / "inventory.json")
    assert read["head"]["hosts"] == ["lab-head"]
    assert read["nodes"]["hosts"] == ["lab-001", "lab-002"]
    assert sorted(read["cluster"]["children"]) == ["head", "nodes"]
    node = read["_meta"]["hostvars"]["lab-001"]
    assert node["dto_gpus"] == 2 and node["dto_cluster_name"] == "lab"
    assert node["dto_slurm"]["max_nodes"] == 512


@needs_ansible
def test_ansible_reads_the_record_through_our_program(tmp_path: Path) -> None:
    program = tmp_path / "inventory"
    module = f"{sys.executable} -m dto.cluster.ansible_inventory {EXAMPLE}"
    program.write_text(f'#!/bin/sh\nexec {module} "$@"\n')
    program.chmod(0o755)
    read = read_by_ansible(program)
    assert read["nodes"]["hosts"] == ["lab-001", "lab-002", "lab-003"]
    assert read["_meta"]["hostvars"]["lab-head"]["dto_partitions"][1]["name"] == "prepare"


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dto.cluster.ansible_inventory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_program_answers_for_one_host_and_refuses_in_one_line(tmp_path: Path) -> None:
    one = ask(str(EXAMPLE), "--host", "lab-003")
    assert json.loads(one.stdout)["dto_group"] == "cpu"
    for arguments in ((), (str(EXAMPLE), "--lst"), (str(tmp_path / "none.yaml"), "--list")):
        done = ask(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("dto: ") and done.stderr.count("\n") == 1
