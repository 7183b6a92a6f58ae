"""One host of a lab: an overlay on the base image, booted by systemd-nspawn."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.commands import LabError, run, wait_until
from tests.lab.image import LOGIN

# What a living machine writes by itself, whoever looks at it.
RESTLESS = (
    "var/log/", "var/lib/systemd/", "var/tmp/systemd-private-", "tmp/", "run/", "etc/machine-id",
    "var/lib/dbus/", "etc/.updated", "var/.updated", "etc/.pwd.lock", "home/admin/.ansible",
    "root/.ansible", "home/admin/.cache", "var/lib/sudo", "var/lib/chrony/", "etc/mtab",
    "home/admin/.sudo_as_admin_successful",  # sudo's own note, at anybody's first sudo
)  # fmt: skip

Places = Sequence[tuple[Path, str]]  # here -> on the host


@dataclass(frozen=True)
class Host:
    """A host's place in the lab; what runs is read from /proc, so any process can look after it."""

    name: str
    number: int
    machine: str
    address: str
    gateway: str
    prefix: int
    bridge: str
    directory: Path
    base: Path
    gpus: int = 0

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    @property
    def log(self) -> Path:
        return self.directory / "console.log"

    @property
    def host_key(self) -> str:
        """What the host shows on the first connection, as a line of known_hosts has it."""
        key = (self.upper / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        return f"{key[0]} {key[1]}"

    def create(self, authorized_key: str) -> None:
        for name in ("root", "upper", "work"):
            (self.directory / name).mkdir(parents=True)
        self._mount()
        self._write("etc/hostname", f"{self.name}\n")
        self._write("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost\n")
        # Its own name: the one that systemd ships for containers sorts later.
        self._write("etc/systemd/network/10-host0.network",
            f"[Match]\nName=host0\n[Network]\nAddress={self.address}/{self.prefix}\n"
            f"Gateway={self.gateway}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n")  # fmt: skip
        self._write("etc/machine-id", hashlib.md5(self.machine.encode()).hexdigest() + "\n")
        if self.gpus:
            # A reboot would lose what mknod made; char 1:3 is /dev/null.
            lines = [f"c /dev/nvidia{n} 0666 root root - 1:3\n" for n in range(self.gpus)]
            self._write("etc/tmpfiles.d/gpus.conf", "".join(lines))
        key = self.root / "etc/ssh/ssh_host_ed25519_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        keys = self._write(f"home/{LOGIN}/.ssh/authorized_keys", authorized_key, 0o600)
        owner = keys.parent.parent.stat()
        for path in (keys, keys.parent):
            os.chown(path, owner.st_uid, owner.st_gid)
        keys.parent.chmod(0o700)

    def _write(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def _mount(self) -> None:
        if os.path.ismount(self.root):
            return
        layers = f"lowerdir={self.base},upperdir={self.upper},workdir={self.directory / 'work'}"
        run("mount", "-t", "overlay", f"dto-lab-{self.machine}", "-o", layers, str(self.root))

    def start(self, binds: Places, read_only: Places) -> None:
        """Boot; returns at once, `is_up` says when it answers."""
        if self.leader() is not None:
            return
        self._mount()
        argv = ["systemd-nspawn", "--quiet", "--register=no", "-D", str(self.root),
                "-M", self.machine, f"--network-bridge={self.bridge}", "--resolv-conf=off",
                "--timezone=off", "--link-journal=no",
                *(f"--bind={outer}:{inner}" for outer, inner in binds),
                *(f"--bind-ro={outer}:{inner}" for outer, inner in read_only)]  # fmt: skip
        if not Path("/run/systemd/system").is_dir():
            argv.append("--keep-unit")  # nobody here to make a unit
        with open(self.log, "ab") as log:
            subprocess.Popen(
                ["setsid", "--fork", "sh", "-c", _KEEPER, self.machine, *argv, "--boot"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            ).wait(timeout=30)  # fmt: skip
        wait_until(lambda: self.leader() is not None, f"{self.name} to start", timeout=30)

    def manager(self) -> int | None:
        """The pid of this host's systemd-nspawn, or QEMU."""
        return next(iter(self._processes("systemd-nspawn", "qemu-system-x86_64")), None)

    def _processes(self, *programs: str) -> list[int]:
        return [pid for pid, argv in _processes(programs)
                if any(f"{self.directory}/" in word for word in argv)]  # fmt: skip

    def leader(self) -> int | None:
        """The pid, seen from outside, of what is PID 1 on the host."""
        manager = self.manager()
        return next(iter(_children(manager)), None) if manager else None

    def kill(self) -> None:
        """As if its power failed: nothing on it gets a moment more."""
        keepers = self._processes("sh", "setsid")
        gone = [pid for pid in (*keepers, self.leader(), self.manager()) if pid is not None]
        for pid in gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: not any(_is_alive(pid) for pid in gone), f"{self.name} to die", timeout=30
        )
        self._sweep()

    def _sweep(self) -> None:
        """What systemd-nspawn leaves behind when it is killed."""
        _remove_cgroups(self.machine)
        if self.machine:
            with contextlib.suppress(OSError):
                os.rmdir(f"/run/systemd/nspawn/propagate/{self.machine}")
        if self.root.is_dir():
            about = self.root.stat()
            Path(f"/run/systemd/nspawn/locks/inode-{about.st_dev}:{about.st_ino}").unlink(
                missing_ok=True
            )

    def inside(self, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run as root on the host without ssh, so also while it is cut off."""
        leader = self.leader()
        if leader is None:
            raise LabError(f"{self.name} is not running")
        return run("nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", "env",
                   "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", *argv,
                   check=False, timeout=timeout)  # fmt: skip

    def files(self, restless: Iterable[str] = RESTLESS) -> dict[str, str]:
        """Path -> kind, mode, owner and content of all that differs from the base image."""
        found: dict[str, str] = {}
        for directory, folders, names in os.walk(self.upper):
            for name in [*folders, *names]:
                path = Path(directory) / name
                short = str(path.relative_to(self.upper))
                if not f"{short}/".startswith(tuple(restless)):
                    found[short] = _fingerprint(path)
        return found

    def remove(self) -> None:
        self.kill()
        while os.path.ismount(self.root):
            run("umount", "--lazy", str(self.root))
        shutil.rmtree(self.directory, ignore_errors=True)


# Each host in control groups of its own: two systemds must not share one tree of them. A host that
# reboots itself ends its systemd-nspawn with 133 where that runs in no unit: it starts again.
_KEEPER = """
if [ ! -d /run/systemd/system ]; then
  for root in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -f "$root/cgroup.procs" ] || continue
    mkdir -p "$root/dto-lab-$0" && echo $$ >"$root/dto-lab-$0/cgroup.procs"
  done
fi
code=133
while [ "$code" = 133 ]; do
  code=0
  "$@" || code=$?
done
"""


def _remove_cgroups(machine: str) -> None:
    if not machine:
        return
    for name in ("", "systemd/", "unified/"):
        top = Path(f"/sys/fs/cgroup/{name}dto-lab-{machine}")
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _fingerprint(path: Path) -> str:
    about = path.lstat()
    content = ""
    if stat.S_ISLNK(about.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(about.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{about.st_mode:o} {about.st_uid}:{about.st_gid} {content}"


def _processes(programs: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if os.path.basename(argv[0]) in programs:
                    yield int(entry.name), argv


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
