"""Backup and restore of a head's files; the program as one file; settings put together."""

from __future__ import annotations

import importlib.util
import random
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dto.cluster.node import archive
from dto.cluster.node.errors import NodeError
from dto.cluster.wheel import pack_node_programs

ROOT = Path(__file__).parents[2]
MANIFEST = b'{"version": 1, "made": 0, "cluster": "lab"}'


def test_an_archive_is_for_root_alone_and_holds_what_is_there(tmp_path: Path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "job_state").write_bytes(b"jobs")
    target = archive.save(tmp_path / "b.tar.gz", [state, tmp_path / "absent"], {"head": "h"})
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as found:
        names = found.getnames()
    assert "dto-backup.json" in names
    assert f"{str(state).lstrip('/')}/job_state" in names
    assert not (tmp_path / "b.tar.gz.partial").exists()


def archived(path: Path, files: dict[str, bytes], manifest: bytes = MANIFEST) -> Path:
    with tarfile.open(path, "w:gz") as made:
        archive._add_bytes(made, "dto-backup.json", manifest)
        folder = tarfile.TarInfo("var/lib/slurm/slurmctld")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o750
        made.addfile(folder)
        for name, content in files.items():
            archive._add_bytes(made, name, content)
    return path


def test_state_is_put_back_whole_and_nothing_else_is_touched(tmp_path: Path):
    root = tmp_path / "root"
    old = root / "var/lib/slurm/slurmctld"
    old.mkdir(parents=True)
    (old / "stale").write_text("of another life")
    source = archived(tmp_path / "b.tar.gz", {
        "var/lib/slurm/slurmctld/job_state": b"jobs", "etc/munge/munge.key": b"key",
        "etc/slurm/slurm.conf": b"the old head's", "etc/munge/../shadow": b"no",
    })  # fmt: skip
    archive.restore(source, "lab", root)
    assert {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} == {
        "var/lib/slurm/slurmctld/job_state", "etc/munge/munge.key",
    }  # fmt: skip
    assert stat.S_IMODE((root / "etc/munge/munge.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b'{"version": 9}', "another dto"),
        (b"[]", "another dto"),
        (b"no json", "no whole backup"),
        (MANIFEST.replace(b"lab", b"other"), "of cluster other, not of lab"),
    ],
)
def test_a_foreign_archive_is_refused(tmp_path: Path, manifest: bytes, words: str):
    source = archived(tmp_path / "b.tar.gz", {}, manifest)
    with pytest.raises(NodeError, match=words):
        archive.restore(source, "lab", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_damaged_archive_is_refused_wherever_the_damage_is(tmp_path: Path):
    key = random.Random(0).randbytes(20_000)
    whole = archived(tmp_path / "b.tar.gz", {"etc/munge/munge.key": key}).read_bytes()
    assert archive.check(tmp_path / "b.tar.gz", "lab")["cluster"] == "lab"
    flipped = [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
               for at in range(32, len(whole), 997)]  # fmt: skip
    cut = [whole[:size] for size in range(0, len(whole), 997)]
    for number, damaged in enumerate((b"no archive", *cut, *flipped)):
        source = tmp_path / "damaged"
        source.write_bytes(damaged)
        with pytest.raises(NodeError, match="no whole backup|another dto"):
            archive.restore(source, "lab", tmp_path / "root")
            pytest.fail(f"damage {number} was not seen")
    assert not (tmp_path / "root").exists()


def test_the_program_runs_without_dto_installed(tmp_path: Path):
    program = pack_node_programs(tmp_path)
    first = program.read_bytes()
    assert pack_node_programs(tmp_path).read_bytes() == first
    done = subprocess.run([sys.executable, "-I", program, "gate", "--help"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0 and "--patience" in done.stdout
    lost = subprocess.run([sys.executable, "-I", program, "--facts", "/no/such", "health"],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (lost.returncode, lost.stderr.count("\n")) == (1, 1)
    assert lost.stderr.startswith("error: /no/such cannot be used")


def test_the_program_imports_nothing_that_a_host_lacks():
    for path in (ROOT / "dto/cluster/node").glob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] == ["from"] or words[:1] == ["import"]:
                top = words[1].split(".")[0]
                assert top in sys.stdlib_module_names or words[1].startswith("dto.cluster.node")


def settings_filter():
    path = ROOT / "ansible/roles/slurm_controller/filter_plugins/dto_slurm.py"
    spec = importlib.util.spec_from_file_location("dto_slurm", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_persons_settings_win_and_lists_are_joined():
    ours = {"KillWait": "60", "SlurmctldParameters": "enable_configless",
            "SchedulerParameters": "nohold_on_prolog_fail,bf_interval=15"}  # fmt: skip
    theirs = {"killwait": 5, "slurmctldparameters": "cloud_dns", "TopologyPlugin": "topology/tree",
              "SchedulerParameters": "bf_interval=30"}  # fmt: skip
    assert settings_filter().settings(ours, theirs) == {
        "KillWait": "5", "SlurmctldParameters": "enable_configless,cloud_dns",
        "SchedulerParameters": "nohold_on_prolog_fail,bf_interval=30",
        "TopologyPlugin": "topology/tree",
    }  # fmt: skip


def test_plugins_are_named_in_full_once():
    plugins = settings_filter().plugins
    assert plugins("task", "cgroup,affinity") == "task/cgroup,task/affinity"
    assert plugins("proctrack", "proctrack/linuxproc") == "proctrack/linuxproc"
