"""Our Ansible modules: what they decide, and what they leave on a disk."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LIBRARY = Path(__file__).parents[2] / "ansible" / "library"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, LIBRARY / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    intern = sys.intern
    spec.loader.exec_module(module)
    sys.intern = intern  # Ansible replaces it for good, and torch's compiler does not take that
    return module


environment, packages, place, probe, secret, tree = (
    load(f"dto_{name}") for name in ("environment", "packages", "place", "probe", "secret", "tree")
)


def test_a_release_is_read_from_os_release():
    text = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'
    found = probe.release(text)
    assert (found["id"], found["version"]) == ("debian", "12")
    assert found["name"] == "Debian GNU/Linux 12 (bookworm)"


@pytest.mark.parametrize(
    ("mounts", "version"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "v2"),
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", "v1"),
        (
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"
            "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            "hybrid",
        ),
    ],
)
def test_the_version_of_cgroups_is_read_from_the_mounts(mounts: str, version: str):
    assert probe.cgroup_version(mounts) == version


def device(root: Path, name: str, vendor: str, kind: str, model: str) -> None:
    (root / name).mkdir(parents=True)
    for file, text in {"vendor": vendor, "class": kind, "device": model}.items():
        (root / name / file).write_text(text + "\n")


def test_only_cards_on_the_bus_count(tmp_path: Path):
    device(tmp_path, "0000:00:01.0", "0x10de", "0x030200", "0x2330")
    device(tmp_path, "0000:00:02.0", "0x10de", "0x068000", "0x22a3")
    device(tmp_path, "0000:00:03.0", "0x10de", "0x040300", "0x22a3")
    device(tmp_path, "0000:00:04.0", "0x1d0f", "0x020000", "0xefa1")
    device(tmp_path, "0000:00:05.0", "0x1d0f", "0x020000", "0xec20")
    assert probe.pci(str(tmp_path)) == {"gpus": 1, "nvswitches": 1, "efa": 1}
    assert probe.pci(str(tmp_path / "absent")) == {"gpus": 0, "nvswitches": 0, "efa": 0}


def test_only_ports_that_are_up_make_a_fabric(tmp_path: Path):
    for name, state, layer in (("mlx5_0", "4: ACTIVE", "InfiniBand"), ("mlx5_1", "1: DOWN", "Eth")):
        port = tmp_path / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(state)
        (port / "link_layer").write_text(layer + "\n")
    assert probe.infiniband(str(tmp_path)) == ["InfiniBand"]


def test_an_address_of_another_host_is_not_ours():
    assert probe.owns("127.0.0.1")
    assert not probe.owns("192.0.2.77")
    assert probe.owns("a-name-is-not-judged")


def test_a_uid_that_means_somebody_else_is_a_clash():
    found = probe.clashes([{"name": "alice", "uid": 0}, {"name": "root", "uid": 4242}])
    assert found == [
        "uid 0 is root here and alice in the record",
        "root has uid 0 here and 4242 in the record",
    ]
    assert (
        probe.clashes([{"name": "root", "uid": 0}, {"name": "nobody-has-it", "uid": 54321}]) == []
    )


def test_a_package_counts_only_when_it_is_configured():
    lines = ["munge install ok installed", "chrony install ok half-configured"]
    lines += ["old deinstall ok config-files", "slurmd hold ok installed"]
    assert packages.installed("\n".join(lines)) == {"munge", "slurmd"}


def test_apt_s_own_errors_are_what_a_user_reads():
    output = "Reading\nE: Unable to locate package nope\nW: other\nE: Second\n"
    assert packages.complaint(output) == "Unable to locate package nope | Second"
    assert packages.complaint("one\nlast words\n\n") == "last words"


def test_what_apt_would_upgrade_is_read_from_its_simulation():
    text = "Reading state\nInst slurmd [22.05-1] (22.05-2 Debian [amd64])\nConf slurmd (22.05-2)\n"
    assert packages.newer(text + "Inst munge [1] (2 local)\n") == ["munge", "slurmd"]
    assert packages.newer("0 upgraded, 0 newly installed\n") == []


def test_package_lists_are_old_when_a_source_is_newer(tmp_path: Path):
    lists, sources = tmp_path / "lists", tmp_path / "sources"
    lists.mkdir()
    sources.mkdir()
    assert packages.lists_age(str(lists), str(sources)) == float("inf")
    (lists / "deb_InRelease").write_text("")
    os.utime(sources, (1, 1))
    assert packages.lists_age(str(lists), str(sources)) < 3600
    (sources / "new.sources").write_text("")
    os.utime(sources / "new.sources", (2e9, 2e9))
    assert packages.lists_age(str(lists), str(sources)) == float("inf")


def test_a_secret_is_whole_and_closed(tmp_path: Path):
    path = tmp_path / "key"
    (tmp_path / "key.partial").write_text("left by a run that was killed")
    secret.write_whole(str(path), b"s3cret", 0o400, os.getuid(), os.getgid())
    assert path.read_bytes() == b"s3cret"
    assert secret.is_owned(str(path), 0o400, os.getuid(), os.getgid())
    assert os.listdir(tmp_path) == ["key"]


def test_a_secret_is_made_once_for_a_cluster(tmp_path: Path):
    mark = tmp_path / "made"
    params: dict[str, Any] = {"content": None, "random_bytes": 32, "once": str(mark)}
    foreign = b"a key that came with the image"
    made = secret.wanted(params, foreign)
    assert made != foreign and len(made) == 32
    mark.write_text("")
    assert secret.wanted(params, made) == made
    given = {**params, "content": base64.b64encode(b"from the head").decode()}
    assert secret.wanted(given, made) == b"from the head"


def test_what_a_wheel_needs_leaves_out_extras_and_names(tmp_path: Path):
    wheel = tmp_path / "it-1-py3-none-any.whl"
    lines = ["Name: it", "Requires-Dist: torch<2.14,>=2.6", "Requires-Dist: PyYAML>=6.0"]
    lines += ["Requires-Dist: click", "Requires-Dist: boto3 ; extra == 's3'"]
    lines += ["Requires-Dist: rich>=13; extra == 'cluster'"]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("it-1.dist-info/METADATA", "\n".join(lines))
    plain = ["PyYAML>=6.0", "click"]
    assert environment.wheel_needs(str(wheel), ["Torch"], []) == plain
    assert environment.wheel_needs(str(wheel), ["Torch"], ["cluster"]) == [*plain, "rich>=13"]


def test_a_new_wheel_in_the_folder_is_a_new_environment(tmp_path: Path):
    (tmp_path / "torch-2.12.0-cp311-cp311-linux.whl").write_text("")
    (tmp_path / "click-8-py3-none-any.whl").write_text("")
    before = environment.offered(str(tmp_path), ["torch>=2.6,<2.14", "numpy"])
    assert before == ["torch-2.12.0-cp311-cp311-linux.whl"]
    (tmp_path / "torch-2.13.0-cp311-cp311-linux.whl").write_text("")
    after = environment.offered(str(tmp_path), ["torch>=2.6,<2.14", "numpy"])
    assert environment.key({"offered": before}) != environment.key({"offered": after})


def settings(place: Path, **changes: Any) -> dict[str, Any]:
    names = ("wheel", "wheels", "index", "check_import")
    return {
        "root": str(place / "venvs"),
        "python": sys.executable,
        "requirements": [],
        "without": [], "extras": [],
        "layers": [],
        "link": str(place / "venv"),
        "keep": 1,
        "log": str(place / "log" / "pip.log"),
        "lock_seconds": 20,
        **dict.fromkeys(names),
        **changes,
    }


def a_wheel(folder: Path, version: str) -> str:
    wheel = folder / f"it-{version}-py3-none-any.whl"
    info = f"it-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("it.py", f"version = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: it\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return str(wheel)


@pytest.mark.timeout(240)
def test_an_environment_is_built_once_and_the_link_turns_to_it(tmp_path: Path):
    layer = settings(
        tmp_path, root=str(tmp_path / "layers"), link=None, wheel=a_wheel(tmp_path, "1")
    )
    below = environment.ensure(layer, False)
    upper = settings(
        tmp_path, layers=[below["path"]], check_import="import it; assert it.version == '1'"
    )
    assert environment.ensure(upper, True)["changed"]
    assert not (tmp_path / "venv").exists()
    built = environment.ensure(upper, False)
    assert built["changed"] and (tmp_path / "venv").resolve() == Path(built["path"])
    assert not environment.ensure(upper, False)["changed"]


@pytest.mark.timeout(240)
def test_what_a_killed_build_left_is_built_again(tmp_path: Path):
    asked = settings(tmp_path)
    target = Path(environment.ensure(asked, True)["path"])
    (target / "bin").mkdir(parents=True)
    (target / "bin" / "python").write_text("half of it")
    (tmp_path / "venvs" / "0123456789abcdef").mkdir()
    assert environment.ensure(asked, False)["changed"]
    assert (target / "bin" / "python").resolve().stat().st_size > 1000
    assert sorted(os.listdir(tmp_path / "venvs")) == [target.name]


def test_a_failed_build_leaves_the_link_and_says_pip_s_words(tmp_path: Path):
    (tmp_path / "venv").symlink_to("elsewhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    asked = settings(tmp_path, requirements=["nowhere-to-be-found"], wheels=str(empty))
    with pytest.raises(environment.Problem, match="pip could not install nowhere-to-be-found"):
        environment.ensure(asked, False)
    assert os.readlink(tmp_path / "venv") == "elsewhere"


def test_examples_are_given_once_and_what_a_user_changed_stays(tmp_path: Path):
    source, work = tmp_path / "tree", tmp_path / "work"
    (source / "examples").mkdir(parents=True)
    (source / "scripts").mkdir()
    (source / "examples" / "net.py").write_text("new\n")
    (source / "scripts" / "submit_job.sh").write_text("#!/bin/sh\n")
    (source / "scripts" / "secret_tool.sh").write_text("not for users\n")
    (work / "examples").mkdir(parents=True)
    (work / "examples" / "net.py").write_text("mine\n")
    assert place.give(str(work), str(source), True) == ["scripts/submit_job.sh"]
    assert place.give(str(work), str(source), False) == ["scripts/submit_job.sh"]
    assert (work / "examples" / "net.py").read_text() == "mine\n"
    assert place.give(str(work), str(source), False) == []


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(ValueError, match="does not belong"):
        tree.unpack(raw.getvalue(), str(tmp_path / "tree"))
    assert not (tmp_path / "outside").exists()


def test_free_space_is_measured_once_a_disk_also_for_folders_to_come(tmp_path: Path):
    found = probe.free_bytes([str(tmp_path / "not" / "there"), str(tmp_path)])
    assert list(found) == [str(tmp_path / "not" / "there")]
    assert found[str(tmp_path / "not" / "there")] > 0
