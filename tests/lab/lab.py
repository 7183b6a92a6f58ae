"""A lab: named hosts on a network of their own, made and removed as one, by any process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.lab import image, network
from tests.lab.commands import LabError, run, wait_until
from tests.lab.hosts import Host
from tests.lab.network import Network
from tests.lab.wheels import wheel_folder

ROOT = Path("/var/lib/dto-labs")


class Lab:
    """The lab of that name, living or not; `Lab.up` makes one, `down` removes all of it."""

    kind: type[Host] = Host
    boot_seconds = 120

    def __init__(self, name: str, subnet: str = "") -> None:
        self.name = name
        self.tag = hashlib.sha256(name.encode()).hexdigest()[:6]
        self.directory = ROOT / name
        self._record = self.directory / "lab.json"
        if not subnet and self._record.is_file():
            subnet = json.loads(self._record.read_text())["subnet"]
        self.network = Network(self.tag, subnet)

    @classmethod
    @contextmanager
    def up(
        cls, name: str, hosts: Sequence[str] = ("head", "node-1", "node-2"), *,
        release: str = "bookworm", gpus: int = 0, wheels: bool = False,
    ) -> Iterator[Lab]:  # fmt: skip
        """A lab for the length of a block; whatever happens in it, nothing stays."""
        lab = cls(name)
        lab.down()
        try:
            lab.create(hosts, release=release, gpus=gpus, wheels=wheels)
            yield lab
        finally:
            lab.down()

    def create(
        self, hosts: Sequence[str], *, release: str = "bookworm", gpus: int = 0,
        wheels: bool = False,
    ) -> None:  # fmt: skip
        """Make and boot bare hosts; each answers over ssh when this returns."""
        base = self.base(release)
        self._register(wheel_folder(release) if wheels else None)
        key = self.directory / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        (self.directory / "shared").mkdir(mode=0o755)
        self.network.up()
        self.add(hosts, base=base, gpus=gpus)

    def base(self, release: str) -> Path:
        return image.base(release)

    def add(
        self, hosts: Sequence[str], *, base: Path | None = None, gpus: int = 0,
        first_number: int = 0, prepare: Callable[[Host], None] = lambda host: None,
    ) -> None:  # fmt: skip
        """Boot more bare hosts beside those that are there; `prepare` is called before they do."""
        base = base or Path(self._read()["base"])
        record = self._read() | {"base": str(base)}
        last = max((host["number"] for host in record["hosts"].values()), default=9)
        for number, name in enumerate(hosts, first_number or last + 1):
            if name in record["hosts"]:
                raise LabError(f"{self.name} has a host named {name} already")
            record["hosts"][name] = {"number": number, "gpus": gpus, "base": str(base)}
        self._save(record)
        public = (self.directory / "key.pub").read_text()
        for name in hosts:
            self.host(name).create(public)
            prepare(self.host(name))
        self._write_known_hosts()
        for name in hosts:
            self.start(name, wait=False)
        for name in hosts:
            self.wait_for(name)

    def _register(self, wheels: Path | None) -> None:
        with network.registry(ROOT):
            network.remember_forwarding(ROOT)
            others = [Lab(name).network.subnet for name in names()]
            subnet = self.network.subnet or network.free_subnet([s for s in others if s])
            self.network = Network(self.tag, subnet)
            self.directory.mkdir(mode=0o700)
            self._save({"subnet": subnet, "hosts": {}, "wheels": str(wheels or ""),
                        "creator": _identity(os.getpid())})  # fmt: skip

    def _read(self) -> dict[str, Any]:
        if not self._record.is_file():
            raise LabError(f"there is no lab named {self.name}")
        record: dict[str, Any] = json.loads(self._record.read_text())
        return record

    def _save(self, record: dict[str, Any]) -> None:
        partial = self._record.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1))
        partial.replace(self._record)

    @property
    def wheels(self) -> Path | None:
        """What every host sees as /wheels, where it was asked for."""
        return Path(self._read()["wheels"]) if self._read()["wheels"] else None

    @property
    def hosts(self) -> list[str]:
        return list(self._read()["hosts"])

    @property
    def key(self) -> Path:
        """The private key that opens `admin` on every host."""
        return self.directory / "key"

    @property
    def known_hosts(self) -> Path:
        """The hosts' own keys, as an operator would have noted them down."""
        return self.directory / "known_hosts"

    @property
    def shared(self) -> Path:
        """What every host sees as /shared."""
        return self.directory / "shared"

    def host(self, name: str) -> Host:
        record = self._read()
        if name not in record["hosts"]:
            raise LabError(f"{self.name} has {', '.join(record['hosts'])}, not {name}")
        one = record["hosts"][name]
        return self.kind(
            name=name, number=one["number"], machine=f"{self.tag}-{one['number']}",
            address=self.network.address(one["number"]), gateway=self.network.gateway,
            prefix=int(self.network.subnet.split("/")[1]), bridge=self.network.bridge,
            directory=self.directory / "hosts" / name, base=Path(one["base"]), gpus=one["gpus"],
        )  # fmt: skip

    def address(self, name: str) -> str:
        return self.host(name).address

    def _write_known_hosts(self) -> None:
        present = [host for host in map(self.host, self.hosts) if host.upper.is_dir()]
        lines = [f"{host.address} {host.host_key}\n" for host in present]
        self.known_hosts.write_text("".join(lines))

    def ssh_command(self, name: str, user: str = image.LOGIN) -> list[str]:
        """The ssh that an operator with the lab's key types, up to the remote command."""
        options = {
            "IdentityFile": self.key, "IdentitiesOnly": "yes", "IdentityAgent": "none",
            "UserKnownHostsFile": self.known_hosts, "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes", "BatchMode": "yes", "ConnectTimeout": "5",
            "LogLevel": "ERROR",
        }  # fmt: skip
        flags = [word for pair in options.items() for word in ("-o", "=".join(map(str, pair)))]
        return ["ssh", "-F", "none", *flags, f"{user}@{self.address(name)}"]

    def ssh(
        self, name: str, command: str, *, user: str = image.LOGIN, timeout: float = 60,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a shell line on a host as an operator does; the exit code is the caller's."""
        argv = [*self.ssh_command(name, user), "--", command]
        return run(*argv, check=False, timeout=timeout, text=stdin)

    def inside(
        self, name: str, *argv: str, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run as root on a host without ssh, so also while it is cut off."""
        return self.host(name).inside(*argv, timeout=timeout)

    def start(self, name: str, wait: bool = True) -> None:
        # Under the same name as here, too: a record names one folder for operator and hosts.
        places = [(self.wheels, "/wheels"), (self.wheels, str(self.wheels))] if self.wheels else []
        self.host(name).start([(self.shared, "/shared")], places)
        if wait:
            self.wait_for(name)

    def wait_for(self, name: str, timeout: float | None = None) -> None:
        """Wait until a host takes a login."""
        def answers() -> bool:
            try:
                return self.ssh(name, "true", timeout=15).returncode == 0
            except subprocess.TimeoutExpired:
                return False

        try:
            limit = timeout or self.boot_seconds
            wait_until(answers, f"{name} to take a login", limit, every=0.5)
        except LabError as error:
            console = self.host(name).log.read_text(errors="replace")[-3000:]
            raise LabError(f"{error}\n{console}") from None

    def kill(self, name: str) -> None:
        """Take the power away; the files stay."""
        self.host(name).kill()

    def replace(self, name: str) -> None:
        """Put a bare machine in a host's place: its name and address, nothing else of it."""
        self.host(name).remove()
        self.host(name).create((self.directory / "key.pub").read_text())
        self._write_known_hosts()
        self.start(name)

    def reboot(self, name: str) -> None:
        """Shut down in order and boot again."""
        before = self.host(name).leader()
        self.inside(name, "systemctl", "reboot", "--no-block")
        wait_until(
            lambda: self.host(name).leader() not in (None, before), f"{name} to reboot", timeout=120
        )
        self.wait_for(name)

    def cut(self, name: str) -> None:
        """Pull the network cable."""
        run("ip", "link", "set", self.network.link(self.host(name).number), "down")

    def mend(self, name: str) -> None:
        run("ip", "link", "set", self.network.link(self.host(name).number), "up")

    def files(self, name: str) -> dict[str, str]:
        """Every file that differs from the bare image -> its content; for "changes nothing"."""
        return self.host(name).files()

    def log(self, name: str) -> str:
        return self.inside(name, "journalctl", "--no-pager", "-b").stdout

    def down(self) -> None:
        """Remove everything of the lab's name, however far its making or removal got."""
        with network.registry(ROOT):
            folder = self.directory / "hosts"
            left = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
            for number, name in enumerate(left):
                self._remnant(name, number).remove()
            self.network.down()
            _unmount_below(self.directory)
            shutil.rmtree(self.directory, ignore_errors=True)
            if self.directory.exists():
                raise LabError(f"{self.directory} could not be removed")
            if not names():
                network.restore_forwarding(ROOT)
                os.rmdir(ROOT)

    def _remnant(self, name: str, number: int) -> Host:
        try:
            return self.host(name)
        except LabError:
            return Host(name, number, "", "", "", 0, "", self.directory / "hosts" / name, Path())


Labs = Callable[..., AbstractContextManager[Lab]]
"""`Lab.up`, called with a label in place of the name."""


def names() -> list[str]:
    """The labs on this machine."""
    return sorted(path.name for path in ROOT.iterdir() if path.is_dir()) if ROOT.is_dir() else []


def remove_orphans(prefix: str) -> None:
    """Remove the labs of these names whose maker no longer lives."""
    for name in names():
        if name.startswith(prefix):
            lab = Lab(name)
            record = lab._record.read_text() if lab._record.is_file() else "{}"
            creator = json.loads(record).get("creator", "0")
            if _identity(int(creator.split()[0])) != creator:
                lab.down()


def _identity(pid: int) -> str:
    """A pid and when it started: a pid alone could be somebody else's by now."""
    try:
        return f"{pid} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return f"{pid} gone"


def _unmount_below(directory: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{directory}/")]):
        run("umount", "--lazy", mount)
