"""What playbooks compute on the operator's machine: verdicts on hosts, unit names, archives."""

from __future__ import annotations

import base64
import importlib.util
import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers import cannot

ANSIBLE = Path(__file__).parents[2] / "ansible"
GIB = 1024**3


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


filters = load(ANSIBLE / "filter_plugins" / "dto.py")


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "release": {"id": "debian", "version": "12", "codename": "bookworm", "name": "Debian 12"},
        "architecture": "x86_64",
        "python": [3, 11, 2],
        "boot_id": "one",
        "machine_id": "m-one",
        "init": "systemd",
        "container": "",
        "cgroup": "v2",
        "clock_skew": 0.4,
        "is_root": True,
        "has_address": True,
        "free_bytes": {"/": 50 * GIB, "/var": 50 * GIB},
        "user_clashes": [],
        **changes,
    }


def host(address: str, **changes: Any) -> dict[str, Any]:
    return {"dto_address": address, "ansible_facts": {"dto_host": facts(**changes)}}


def cluster(**node: Any) -> dict[str, Any]:
    other = {"boot_id": "two", "machine_id": "m-two", **node}
    return {"head": host("10.0.0.1"), "n1": host("10.0.0.2", **other)}


RULES = {
    "hosts": ["head", "n1"],
    "head": "head",
    "is_check": False,
    "proctrack": "cgroup",
    "max_clock_skew": 60,
    "min_free_gib": 2,
}


def test_hosts_in_order_have_no_problems():
    hosts = cluster()
    assert filters.problems(hosts, "head", RULES) == []
    assert filters.problems(hosts, "n1", RULES) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"release": {"id": "rocky", "version": "9", "name": "Rocky 9"}}, "runs Rocky 9: use"),
        (
            {"release": {"id": "ubuntu", "version": "24.04", "name": "Ubuntu"}},
            "runs ubuntu 24.04 and the head debian 12",
        ),
        ({"python": [3, 9, 2]}, "python3 is 3.9.2: 3.10 is needed"),
        ({"is_root": False}, "allow it sudo"),
        ({"init": "sh"}, "first process is sh, not systemd"),
        ({"has_address": False}, "has the address 10.0.0.2: correct"),
        ({"cgroup": "hybrid"}, "set slurm.proctrack to linuxproc"),
        ({"clock_skew": -300.0}, "clock is 300 s behind"),
        ({"clock_skew": 300.0}, "clock is 300 s ahead of"),
        ({"free_bytes": {"/var": GIB // 4}}, "0.2 GiB are free under /var, 2 are needed"),
        ({"user_clashes": ["uid 1000 is bob here and alice in the record"]}, "change one"),
        ({"boot_id": "one"}, "is the same machine as head: take one"),
        ({"architecture": "aarch64"}, "need one architecture"),
    ],
)
def test_each_problem_is_one_sentence_with_what_to_do(change: dict[str, Any], words: str):
    found = filters.problems(cluster(**change), "n1", RULES)
    assert len(found) == 1, found
    assert words in found[0]
    assert "\n" not in found[0]


def test_all_problems_of_a_host_are_said_at_once():
    found = filters.problems(cluster(is_root=False, init="sh", cgroup="v1"), "n1", RULES)
    assert len(found) == 3


def test_two_clocks_that_are_off_in_opposite_ways_are_noticed():
    hosts = {"head": host("10.0.0.1", clock_skew=-40.0), **cluster(clock_skew=45.0)}
    hosts["head"] = host("10.0.0.1", clock_skew=-40.0)
    assert "85 s off the head's" in filters.problems(hosts, "n1", RULES)[0]


def test_two_hosts_with_one_address_are_refused():
    hosts = cluster()
    hosts["n1"]["dto_address"] = "10.0.0.1"
    assert "has the address of head" in filters.problems(hosts, "n1", RULES)[0]


def test_a_head_that_does_not_answer_stops_the_nodes():
    hosts = cluster()
    hosts["head"] = {"dto_address": "10.0.0.1"}
    assert "head, the head, could not be looked at" in filters.problems(hosts, "n1", RULES)[0]


def test_a_login_user_without_sudo_is_told_what_to_allow():
    hosts = cluster()
    hosts["n1"] = {
        "dto_address": "10.0.0.2",
        "ansible_user": "admin",
        "validate_python": {"stdout": "has-python\n"},
        "validate_probe": {"failed": True, "msg": "sudo: a password is required\n"},
    }
    (found,) = filters.problems(hosts, "n1", RULES)
    assert found.startswith("admin may not become root without a password: add `admin ALL=")


def test_a_host_without_python_is_installed_later_but_not_in_a_dry_run():
    hosts = cluster()
    hosts["n1"] = {
        "dto_address": "10.0.0.2",
        "validate_python": {"stdout": 'no-python\nID=debian\nVERSION_ID="12"\n'},
    }
    assert filters.problems(hosts, "n1", RULES) == []
    assert (
        "apt-get install python3" in filters.problems(hosts, "n1", {**RULES, "is_check": True})[0]
    )
    hosts["n1"]["validate_python"]["stdout"] = 'no-python\nID="alpine"\nVERSION_ID=3.20\n'
    assert "runs alpine 3.20: use" in filters.problems(hosts, "n1", RULES)[0]


def test_static_nodes_and_cloned_disks_are_remarks_not_problems():
    jammy = {"id": "ubuntu", "version": "22.04", "name": "Ubuntu 22.04"}
    hosts = {
        "head": host("10.0.0.1", release=jammy),
        "n1": host("10.0.0.2", release=jammy, boot_id="two"),
    }
    assert filters.problems(hosts, "n1", RULES) == []
    static, cloned = filters.remarks(hosts, "n1", {"hosts": ["head", "n1"]})
    assert "static" in static
    assert "machine-id of head" in cloned


@pytest.mark.parametrize("path", ["/shared", "/mnt/fast disk", "/srv/a-b/.c", "/", "/data/ä"])
def test_unit_names_are_those_of_systemd(path: str):
    escape = shutil.which("systemd-escape")
    if not escape:
        cannot("needs systemd-escape")
    argv = [escape, "--path", "--suffix=mount", path]
    wanted = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout
    assert filters.unit_name(path) == wanted.strip()


def test_an_archive_is_the_same_for_the_same_files(tmp_path: Path):
    for place in ("a", "b"):
        (tmp_path / place / "scripts" / "__pycache__").mkdir(parents=True)
        (tmp_path / place / "scripts" / "run.sh").write_text("true\n")
        (tmp_path / place / "scripts" / "run.sh").chmod(0o755)
        (tmp_path / place / "scripts" / "__pycache__" / "x.pyc").write_text(place)
    first, second = (filters.folder_archive(str(tmp_path / place)) for place in ("a", "b"))
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(first))) as archive:
        assert [(entry.name, entry.mode) for entry in archive] == [("scripts/run.sh", 0o755)]


def test_only_packages_that_are_missing_or_of_another_size_are_brought(tmp_path: Path):
    for name, text in {"a.whl": "1", "b.whl": "22", "c.tar.gz": "3", "notes.txt": "4"}.items():
        (tmp_path / name).write_text(text)
    found = [{"path": "/there/a.whl", "size": 1}, {"path": "/there/b.whl", "size": 1}]
    assert filters.missing_wheels(str(tmp_path), found) == ["b.whl", "c.tar.gz"]


def test_horovod_is_compiled_where_a_gpu_works_else_on_the_head():
    hosts = cluster(pci_gpus=8, nvidia_driver="NVRM version: 570")
    assert filters.build_host(hosts, ["head", "n1"], "head") == "n1"
    assert (
        filters.build_host(cluster(pci_gpus=8, nvidia_driver=""), ["head", "n1"], "head") == "head"
    )
