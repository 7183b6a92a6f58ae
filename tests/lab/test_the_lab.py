"""The lab itself: hosts like real ones, and nothing of them left afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, cannot
from tests.lab.commands import LabError, run, wait_until
from tests.lab.lab import ROOT, Lab, Labs, names


def _traces(lab: Lab) -> list[str]:
    """Everything on this machine that bears the lab's name."""
    listings = [
        Path("/proc/self/mounts").read_text(),
        run("ip", "-o", "link").stdout,
        run("nft", "list", "ruleset").stdout,
        "\n".join(map(str, Path("/sys/fs/cgroup").glob("**/dto-lab-*"))),
        "\n".join(map(str, Path("/run/systemd/nspawn").glob("propagate/*"))),
        "\n".join(_command_lines()),
        "\n".join(str(ROOT / name) for name in names()),
    ]
    lines = "\n".join(listings).splitlines()
    return [line for line in lines if lab.tag in line or str(lab.directory) in line]


def _command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace").replace("\0", " "))
    return found


def test_nothing_stays_of_the_last_lab(labs: Labs) -> None:
    if names():
        cannot(f"other labs are up: {', '.join(names())}")
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    with labs("last", ["a"]):
        assert forwarding.read_text() == "1\n"
    assert forwarding.read_text() == before
    assert not ROOT.exists()


def test_hosts_are_bare_and_take_an_operators_login(lab: Lab) -> None:
    for name in lab.hosts:
        done = lab.ssh(name, "hostname; sudo -n id -u; command -v slurmd munged || echo bare")
        assert done.stdout.split() == [name, "0", "bare"], done.stderr


def test_hosts_reach_each_other_and_the_shared_folder(lab: Lab) -> None:
    for name in lab.hosts:
        others = " && ".join(f"ping -c 1 -W 5 {lab.address(other)}" for other in lab.hosts)
        assert lab.ssh(name, others).returncode == 0
        assert lab.ssh(name, f"sudo touch /shared/{name}").returncode == 0
    assert sorted(path.name for path in lab.shared.iterdir()) == sorted(lab.hosts)


def test_every_host_has_an_identity_of_its_own(lab: Lab) -> None:
    machines = {lab.ssh(name, "cat /etc/machine-id").stdout for name in lab.hosts}
    keys = {lab.host(name).host_key for name in lab.hosts}
    assert len(machines) == len(keys) == len(lab.hosts)


def test_a_host_installs_packages_from_its_mirror(lab: Lab) -> None:
    done = lab.ssh("node-2", "sudo apt-get install -y --no-install-recommends rsync", timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_killed_host_comes_back_with_its_files(lab: Lab) -> None:
    lab.ssh("node-1", "echo kept | sudo tee /etc/kept; sync")
    before = lab.ssh("node-1", "cat /proc/sys/kernel/random/boot_id /proc/1/stat").stdout
    lab.kill("node-1")
    assert lab.ssh("node-1", "true").returncode == 255
    lab.start("node-1")
    assert lab.ssh("node-1", "cat /etc/kept").stdout == "kept\n"
    assert lab.ssh("node-1", "cat /proc/sys/kernel/random/boot_id /proc/1/stat").stdout != before


def test_a_host_that_reboots_itself_comes_back(lab: Lab) -> None:
    lab.reboot("node-1")
    assert lab.ssh("node-1", "systemctl is-system-running --wait").stdout == "running\n"


def test_a_cut_host_is_out_of_reach_until_it_is_mended(lab: Lab) -> None:
    lab.cut("node-2")
    assert lab.ssh("node-2", "true").returncode == 255
    assert lab.inside("node-2", "hostname").stdout == "node-2\n"
    lab.mend("node-2")
    lab.wait_for("node-2")


def test_a_file_that_changes_is_seen(lab: Lab) -> None:
    before = lab.files("head")
    assert lab.ssh("head", "true").returncode == 0
    assert lab.files("head") == before
    lab.ssh("head", "sudo touch /etc/new; sudo chmod 600 /etc/hostname; sudo rm /etc/pip.conf")
    after = lab.files("head")
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    assert changed == {"etc/new", "etc/hostname", "etc/pip.conf"}


def test_fake_gpus_survive_a_reboot(labs: Labs) -> None:
    with labs("gpus", ["g"], gpus=2) as lab:
        lab.reboot("g")
        assert lab.ssh("g", "ls /dev/nvidia*").stdout.split() == ["/dev/nvidia0", "/dev/nvidia1"]


def test_two_labs_live_side_by_side(labs: Labs) -> None:
    with labs("one", ["a"]) as one, labs("two", ["a"]) as two:
        assert one.network.subnet != two.network.subnet
        two.down()
        assert one.ssh("a", "hostname").stdout == "a\n"


def test_down_leaves_nothing(labs: Labs) -> None:
    with labs("gone", ["a", "b"]) as lab:
        lab.kill("b")
        assert _traces(lab)
    assert _traces(lab) == []
    assert lab.name not in names()


@pytest.mark.parametrize("moment", ["registered", "networked", "mounted", "booting", "booted"])
def test_down_leaves_nothing_of_a_killed_maker(moment: str) -> None:
    lab = Lab(f"test-killed-{moment}-{os.getpid()}")
    reached = {
        "registered": lambda: lab.directory.is_dir(),
        "networked": lambda: lab.network.bridge in run("ip", "-o", "link").stdout,
        "mounted": lambda: str(lab.directory) in Path("/proc/self/mounts").read_text(),
        "booting": lambda: any("systemd-nspawn" in t and lab.tag in t for t in _command_lines()),
        "booted": lambda: run("ip", "-o", "link").stdout.count(f"vb-{lab.tag}") == 2,
    }
    argv = [sys.executable, "-m", "tests.lab", "--lab", lab.name, "up", "--hosts", "a,b"]
    maker = subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        wait_until(reached[moment], f"a lab that is {moment}", timeout=300, every=0.005)
    finally:
        maker.send_signal(signal.SIGKILL)
        maker.wait(timeout=30)
    before = _traces(lab)
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "--lab", lab.name, "down"], cwd=REPOSITORY,
        timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert before and _traces(lab) == []


def test_a_host_of_debian_13_boots(labs: Labs) -> None:
    try:
        with labs("trixie", ["t"], release="trixie") as lab:
            assert "VERSION_CODENAME=trixie" in lab.ssh("t", "cat /etc/os-release").stdout
            assert lab.ssh("t", "systemctl is-system-running --wait").stdout == "running\n"
    except LabError as error:
        if "no base image" not in str(error):
            raise
        cannot(str(error).splitlines()[0])
