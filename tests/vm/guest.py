"""A host with a kernel of its own: QEMU on a copy-on-write disk, on the lab's bridge."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from tests.lab import image as lab_image
from tests.lab.commands import run, wait_until
from tests.lab.hosts import Host, Places
from tests.lab.lab import Lab
from tests.vm import image

_MEMORY_MIB = 1024
# Device numbers for fake GPUs that nothing else needs: SLURM forbids others to open them.
_DEVICES = (5, 7, 11)  # of /dev/zero, /dev/full and /dev/kmsg


@dataclass(frozen=True)
class Guest(Host):
    """Like any host of a lab, but `inside` goes over ssh, and there is no shared folder."""

    @property
    def host_key(self) -> str:
        key = (self.directory / "ssh_host_ed25519_key.pub").read_text().split()
        return f"{key[0]} {key[1]}"

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def link(self) -> str:
        return f"vb-{self.machine}"

    def create(self, authorized_key: str) -> None:
        (self.directory / "upper").mkdir(parents=True)
        (self.directory / "root").mkdir()
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw",
            "-b", str(self.base / "root.ext4"), str(self.disk))  # fmt: skip
        key = self.directory / "ssh_host_ed25519_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        home = f"/home/{lab_image.LOGIN}/.ssh"
        owner = f"{lab_image.LOGIN} {lab_image.LOGIN}"
        names = f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n"
        # tmpfiles.d lines, which systemd takes from the firmware's tables at boot.
        lines = [
            f"d {home} 0700 {owner}",
            f"f~ {home}/authorized_keys 0600 {owner} - {_encoded(authorized_key)}",
            f"f~ /etc/ssh/{key.name} 0600 root root - {_encoded(key.read_text())}",
            f"f+~ /etc/hostname 0644 root root - {_encoded(self.name)}",
            f"f+~ /etc/hosts 0644 root root - {_encoded(names)}",
            *(f"c /dev/nvidia{n} 0666 root root - 1:{_DEVICES[n]}" for n in range(self.gpus)),
        ]
        (self.directory / "tmpfiles.extra").write_text("\n".join(lines) + "\n")

    def start(self, binds: Places, read_only: Places) -> None:
        if self.manager() is not None:
            return
        if not Path(f"/sys/class/net/{self.link}").exists():
            run("ip", "tuntap", "add", self.link, "mode", "tap")
        run("ip", "link", "set", self.link, "master", self.bridge, "up")
        mask = ip_network(f"{self.gateway}/{self.prefix}", strict=False).netmask
        identity = hashlib.md5(self.machine.encode()).hexdigest()
        kernel = (f"root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 systemd.hostname={self.name}"
                  f" systemd.firstboot=no systemd.machine_id={identity}"
                  " systemd.mask=serial-getty@ttyS0.service"
                  f" ip={self.address}::{self.gateway}:{mask}:{self.name}:eth0:off")  # fmt: skip
        extra = _encoded((self.directory / "tmpfiles.extra").read_text())
        argv = [
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", "1", "-m", str(_MEMORY_MIB), "-display", "none", "-serial", "stdio",
            "-kernel", str(self.base / "vmlinuz"), "-initrd", str(self.base / "initrd"),
            "-append", kernel,
            "-drive", f"file={self.disk},format=qcow2,if=virtio,cache=unsafe",
            "-netdev", f"tap,id=lan,ifname={self.link},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=lan,mac=52:54:00:00:00:{self.number:02x}",
            "-device", "virtio-rng-pci",
            "-smbios", f"type=11,value=io.systemd.credential.binary:tmpfiles.extra={extra}",
        ]  # fmt: skip
        with open(self.log, "ab") as log:
            subprocess.Popen(["setsid", "--fork", *argv], stdin=subprocess.DEVNULL, stdout=log,
                             stderr=log).wait(timeout=30)  # fmt: skip
        wait_until(lambda: self.manager() is not None, f"{self.name} to start", timeout=30)

    def leader(self) -> int | None:
        return self.manager()


class VmLab(Lab):
    """A lab of guests: the same network, keys and ways to break them."""

    kind = Guest
    boot_seconds = 420

    def base(self, release: str) -> Path:
        return image.base()


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
