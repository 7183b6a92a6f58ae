"""What cloud-init gets on Nebius, and the scripts with which machines meet on the filesystem."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cloud.nebius.cluster import KEY, ONE, Nebius
from tests.helpers import REPOSITORY, cannot

pytestmark = pytest.mark.cloud

FILES = REPOSITORY / "terraform" / "modules" / "nebius-hpc" / "files"


@pytest.fixture(scope="module")
def user_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    nebius = Nebius(tmp_path_factory.mktemp("nebius"))
    nebius.terraform.init()
    nebius.apply(instance_count=1, vm_username="ann", capacity_type="spot")
    machines = nebius.existing("compute_v1_instance")
    return {name: values["cloud_init_user_data"] for name, values in machines.items()}


def test_every_machine_gets_a_user_its_name_and_no_private_key(user_data: dict[str, str]) -> None:
    assert sorted(user_data) == ["lab-001", "lab-head"]
    for name, text in user_data.items():
        assert text.startswith("#cloud-config\n")
        assert "PRIVATE KEY" not in text
        said = yaml.safe_load(text)
        assert said["hostname"] == name
        assert said["ssh_pwauth"] is False
        (user,) = said["users"]
        assert (user["name"], user["ssh_authorized_keys"]) == ("ann", [KEY])
        files = {file["path"]: file for file in said["write_files"]}
        assert files["/usr/local/sbin/dto-join"]["permissions"] == "0755"
        assert files["/usr/local/sbin/dto-join"]["content"] == (FILES / "dto-join").read_text()
        told = files["/etc/default/dto-join"]["content"]
        assert f"NAME='{name}'" in told
        assert f"TYPE='{ONE if name == 'lab-001' else 'cpu-d3/4vcpu-16gb'}'" in told
        assert f"CAPACITY='{'spot' if name == 'lab-001' else 'on-demand'}'" in told
        assert len(text.encode()) < 16 * 1024  # what EC2 takes; Nebius names no limit
        assert ("/etc/tinyproxy/tinyproxy.conf" in files) == (name == "lab-head")
        assert said.get("packages") == (["tinyproxy"] if name == "lab-head" else None)
        assert said["runcmd"][0] == ["/usr/local/sbin/dto-mount"]


_METADATA = '[ "$*" = "Metadata: true URL" ] && echo computeinstance-e00a'.replace(
    "URL", "http://metadata.nebius.internal/v1/instance-data/id"
)


class Machine:
    """A machine as the scripts see it: an /etc of its own, and the filesystem that all share."""

    def __init__(self, folder: Path, name: str, role: str, shared: Path) -> None:
        self.etc = folder / name
        for made in ("default", "ssh", "apt/apt.conf.d"):
            (self.etc / made).mkdir(parents=True)
        self.host_key = f"ssh-ed25519 AAAA{name} root@{name}\n"
        self.runtime = folder / f"{name}-run"
        self.runtime.mkdir()
        (self.etc / "ssh/ssh_host_ed25519_key.pub").write_text(self.host_key)
        (self.etc / "fstab").write_text("# none\n")
        values = {"NAME": name, "ROLE": role, "LOGIN": "ann", "SHARED": str(shared)}
        values |= {"TAG": "shared", "PROXY": "yes", "TYPE": ONE, "CAPACITY": "spot"}
        said = "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())
        (self.etc / "default/dto-join").write_text(said)

    def run(self, script: str, path: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script with this /etc in a mount namespace of its own; a bind mount is a mount."""
        inside = (
            f'. {self.etc}/default/dto-join; mount --bind "$SHARED" "$SHARED"; '
            f"cp /etc/passwd /etc/group {self.etc}; mount --bind {self.etc} /etc; "
            f"exec {FILES / script}"
        )
        environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}".removeprefix(":")}
        environment["RUNTIME_DIRECTORY"] = str(self.runtime)
        return subprocess.run(
            ["unshare", "--mount", "sh", "-ec", inside], env=environment, text=True,
            capture_output=True, timeout=60,
        )  # fmt: skip


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine, Path]:
    missing = [
        name for name in ("unshare", "findmnt", "ip", "ssh-keygen") if not shutil.which(name)
    ]
    if os.geteuid() != 0 or missing:
        cannot(f"needs root and {', '.join(missing) or 'nothing else'}")
    shared = tmp_path / "shared"
    shared.mkdir()
    tools = tmp_path / "tools"
    tools.mkdir()
    # the sandbox may have no route out; the address itself is not what is tested
    (tools / "ip").write_text(
        "#!/bin/sh\necho '192.0.2.1 via 10.0.0.1 dev eth0 src 10.0.0.5 uid 0'\n"
    )
    (tools / "ip").chmod(0o755)
    (tools / "curl").write_text(f"#!/bin/sh\nshift 7; {_METADATA}\n")
    (tools / "curl").chmod(0o755)
    head = Machine(tmp_path, "lab-head", "head", shared)
    return head, Machine(tmp_path, "lab-001", "node", shared), tools


def test_a_node_waits_for_the_head_and_then_lets_it_in(machines: Any) -> None:
    head, node, tools = machines
    early = node.run("dto-join", path=str(tools))
    assert early.returncode == 1
    assert "the head has not left its key" in early.stderr
    meet = node.etc.parent / "shared" / ".dto"
    assert (meet / "host-keys/lab-001").read_text() == node.host_key

    for _ in range(2):  # once more changes nothing
        done = head.run("dto-join", path=str(tools))
        assert done.returncode == 0, done.stderr
        made = (head.etc / "dto/head-key").read_text()
        done = node.run("dto-join", path=str(tools))
        assert done.returncode == 0, done.stderr
    public = (head.etc / "dto/head-key.pub").read_text()
    assert (node.etc / "ssh/dto/ann").read_text() == public
    assert made == (head.etc / "dto/head-key").read_text()
    assert (meet / "host-keys/lab-head").read_text() == head.host_key
    assert "10.0.0.5:3128" in (node.etc / "apt/apt.conf.d/90dto-proxy").read_text()
    assert "proxy = http://10.0.0.5:3128" in (node.etc / "pip.conf").read_text()

    modes = {path: path.stat().st_mode & 0o777 for path in (meet, meet / "host-keys")}
    assert set(modes.values()) == {0o700}
    assert (head.etc / "dto/head-key").stat().st_mode & 0o777 == 0o600
    assert (node.etc / "ssh/dto/ann").stat().st_mode & 0o777 == 0o644
    # the private half stays where it was made
    assert not [
        path for path in meet.rglob("*") if path.is_file() and "PRIVATE" in path.read_text()
    ]
    assert not list(meet.rglob("*.new"))


def test_a_node_says_what_the_head_needs_to_enrol_it_and_the_head_does_not(machines: Any) -> None:
    head, node, tools = machines
    folder = node.etc.parent / "shared/.dto/nodes"
    assert "no address yet" in broken(node, tools, "ip").stderr
    assert not list(folder.iterdir())
    node.run("dto-join", path=str(tools))  # before there is a head
    assert (folder / "lab-001").read_text() == f"10.0.0.5 {ONE} spot computeinstance-e00a\n"
    head.run("dto-join", path=str(tools))
    assert [path.name for path in folder.iterdir()] == ["lab-001"]
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / "lab-001")]
    assert modes == [0o700, 0o600]

    os.utime(folder / "lab-001", (0, 0))
    broken(node, tools, "curl")  # who it is was asked once
    assert (folder / "lab-001").read_text().endswith(" computeinstance-e00a\n")
    assert (folder / "lab-001").stat().st_mtime > 0  # it is still there
    shutil.rmtree(node.runtime)
    node.runtime.mkdir()
    broken(node, tools, "curl")
    assert (folder / "lab-001").read_text() == f"10.0.0.5 {ONE} spot -\n"


def broken(node: Machine, tools: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Run dto-join on a node with a program that fails, once."""
    (tools / name).rename(tools / "kept")
    (tools / name).write_text("#!/bin/sh\nexit 1\n")
    (tools / name).chmod(0o755)
    done = node.run("dto-join", path=str(tools))
    (tools / "kept").rename(tools / name)
    return done


def test_a_head_that_was_made_anew_is_let_in_by_its_new_key(machines: Any) -> None:
    head, node, tools = machines
    head.run("dto-join", path=str(tools))
    node.run("dto-join", path=str(tools))
    old = (node.etc / "ssh/dto/ann").read_text()
    shutil.rmtree(head.etc / "dto")
    head.run("dto-join", path=str(tools))
    node.run("dto-join", path=str(tools))
    new = (node.etc / "ssh/dto/ann").read_text()
    assert new == (head.etc / "dto/head-key.pub").read_text() != old


def test_what_is_no_key_lets_nobody_in(machines: Any) -> None:
    head, node, tools = machines
    head.run("dto-join", path=str(tools))
    (node.etc.parent / "shared/.dto/head-key.pub").write_text("not a key\n")
    assert node.run("dto-join", path=str(tools)).returncode != 0
    assert not (node.etc / "ssh/dto/ann").exists()


def test_the_mount_is_written_once_and_boot_does_not_hang_on_it(machines: Any) -> None:
    head, _, tools = machines
    for name in ("systemctl", "systemd-escape"):
        (tools / name).write_text("#!/bin/sh\necho mnt-filesystem.automount\n")
        (tools / name).chmod(0o755)
    for _ in range(2):
        done = head.run("dto-mount", path=str(tools))
        assert done.returncode == 0, done.stderr
    lines = (head.etc / "fstab").read_text().splitlines()
    shared = head.etc.parent / "shared"
    assert lines == [
        "# none", f"shared {shared} virtiofs rw,relatime,nofail,x-systemd.automount 0 0"
    ]  # fmt: skip
