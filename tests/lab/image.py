"""The root file system that every host of a lab starts from: built once, kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.commands import LabError, run

# The caller's real home: tests set HOME to an empty folder.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or f"{pwd.getpwuid(os.getuid()).pw_dir}/.cache")
CACHE /= "dto"

LOGIN = "admin"
# What a provider's image has: an init system, sshd, sudo, Python; nothing of ours.
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "iproute2", "iputils-ping",
    "sudo", "ca-certificates", "kmod",
)  # fmt: skip
# Kept as files in apt's cache, so that three hosts do not download the same thing three times.
KEPT_PACKAGES = (
    "slurmctld", "slurmd", "slurm-client", "munge", "chrony", "nfs-common", "python3-venv",
    "python3-apt", "rsync", "acl", "curl", "git", "pciutils", "prometheus-node-exporter",
)  # fmt: skip
MIRRORS = {"debian": "http://deb.debian.org/debian", "ubuntu": "http://archive.ubuntu.com/ubuntu"}
KEYRING = "/usr/share/keyrings/{}-archive-keyring.gpg"


@dataclass(frozen=True)
class Release:
    """A release of a distribution, with the mirror that this machine uses for it."""

    distribution: str
    name: str
    sources: tuple[str, ...] = field(default=())

    @classmethod
    def named(cls, name: str) -> Release:
        distribution = "debian" if name in ("bookworm", "trixie") else "ubuntu"
        components = "main" if distribution == "debian" else "main universe"
        signed = f"[signed-by={KEYRING.format(distribution)}]"
        sites = _own_sites(distribution, name) or [(MIRRORS[distribution], name)]
        lines = [f"deb {signed} {site} {suite} {components}" for site, suite in sites]
        return cls(distribution, name, tuple(lines))


def _own_sites(distribution: str, release: str) -> list[tuple[str, str]]:
    """This machine's mirrors, as (mirror, suite), where it runs that distribution itself."""
    own = platform.freedesktop_os_release()
    if own.get("ID") != distribution:
        return []
    name = own.get("VERSION_CODENAME", "")
    done = run("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages",
               check=False)  # fmt: skip
    found = [tuple(line.split()) for line in done.stdout.splitlines()]
    sites = [(t[0], t[1]) for t in found if len(t) == 2 and t[1].split("-")[0] == name]
    if release != name:
        sites = [(site, release) for site, suite in sites if suite == name]
    return list(dict.fromkeys(sites))


def apt_settings() -> list[str]:
    """How this machine reaches its mirrors: proxies and certificates, for hosts to do the same."""
    wanted = ("Acquire::http::", "Acquire::https::", "Acquire::Check-")
    lines = run("apt-config", "dump", check=False).stdout.splitlines()
    kept = [line for line in lines if line.startswith(wanted) and '"' in line]
    return [line for line in kept if not line.endswith(' "";')]


def authorities() -> list[str]:
    """The certificate authorities that this machine trusts, in PEM."""
    named = (os.environ.get(name) for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"))
    bundle = Path(next(filter(None, named), "/etc/ssl/certs/ca-certificates.crt"))
    if not bundle.is_file():
        return []
    end = "-----END CERTIFICATE-----"
    blocks = bundle.read_text(errors="replace").split(end)[:-1]
    return [block[block.index("-----BEGIN") :] + end + "\n" for block in blocks]


def pip_settings() -> str:
    """The machine's pip.conf without what only this machine has, such as local folders."""
    listed = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True,
                            text=True, timeout=60, stdin=subprocess.DEVNULL)  # fmt: skip
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt"]
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        name, value = name.rpartition(".")[2], value.strip("'")
        remote = [word for word in value.split() if not word.startswith(("file:", "/"))]
        wanted = ("index-url", "extra-index-url", "proxy", "trusted-host", "timeout")
        if name in wanted and remote:
            lines.append(f"{name} = {' '.join(remote)}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def key_of(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One builder of this path at a time; the others wait and then find it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base(release: str = "bookworm") -> Path:
    """The folder with a bare host's files; a minute the first time, then at once."""
    described = Release.named(release)
    key = key_of(described, PACKAGES, KEPT_PACKAGES, apt_settings(), authorities(), pip_settings(),
                 Path(__file__).read_text())  # fmt: skip
    path = CACHE / f"lab-{release}-{key}"
    with locked(CACHE / f"lab-{release}"):
        if not path.is_dir():
            _remove_others(release)
            _build(described, path)
    return path


def _remove_others(release: str) -> None:
    """Older images, unless a living lab still stands on them, and halves of killed builders."""
    in_use = Path("/proc/self/mounts").read_text()
    for old in CACHE.glob(f"lab-{release}-*"):
        if old.is_dir() and str(old) not in in_use:
            shutil.rmtree(old)


def _build(release: Release, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    make_root(release, partial, PACKAGES)
    keep = ["apt-get", "install", "--yes", "--download-only", "--no-install-recommends"]
    run_in(partial, *keep, *KEPT_PACKAGES)
    partial.rename(path)


def make_root(release: Release, root: Path, packages: Sequence[str], *options: str) -> None:
    """A root file system with the login user, this machine's authorities and its mirrors."""
    apt = [f"--aptopt={line.rstrip(';')}" for line in apt_settings()]
    # apt's lists stay, so that hosts can install at once.
    try:
        run("mmdebstrap", "--quiet", "--variant=apt", "--format=directory", *apt, *options,
            f"--include={','.join(packages)}", "--skip=cleanup/apt/lists",
            release.name, str(root), *release.sources, timeout=900)  # fmt: skip
    except LabError as error:
        shutil.rmtree(root, ignore_errors=True)
        raise LabError(f"no base image of {release.name}: {error}") from None
    _equip(root)


def run_in(root: Path, *argv: str) -> None:
    run("chroot", str(root), *argv, timeout=600, env={"DEBIAN_FRONTEND": "noninteractive"})


def write_in(root: Path, name: str, text: str, mode: int = 0o644) -> None:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


def _equip(root: Path) -> None:
    known = (root / "etc/ssl/certs/ca-certificates.crt").read_text()
    for number, text in enumerate(authorities()):
        if text not in known:
            write_in(root, f"usr/local/share/ca-certificates/outer-{number}.crt", text)
    write_in(root, "etc/apt/apt.conf.d/80outer", "\n".join(apt_settings()) + "\n")
    write_in(root, "etc/pip.conf", pip_settings())
    write_in(root, f"etc/sudoers.d/{LOGIN}", f"{LOGIN} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    (root / "etc/resolv.conf").unlink(missing_ok=True)  # on Ubuntu 22.04 a link to nowhere
    write_in(root, "etc/resolv.conf", resolvers())
    run_in(root, "update-ca-certificates")
    run_in(root, "useradd", "--create-home", "--shell", "/bin/bash", LOGIN)
    run_in(root, "systemctl", "enable", "systemd-networkd")
    run_in(root, "systemctl", "mask", "systemd-networkd-wait-online", "systemd-resolved",
           "apt-daily.timer", "apt-daily-upgrade.timer")  # fmt: skip
    for name in ("etc/machine-id", "var/lib/dbus/machine-id"):
        (root / name).unlink(missing_ok=True)
    for key in root.glob("etc/ssh/ssh_host_*"):
        key.unlink()


def resolvers() -> str:
    """Name servers that answer from a network of its own as well: no stub on loopback."""
    for name in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        path = Path(name)
        text = path.read_text() if path.is_file() else ""
        lines = [line for line in text.splitlines() if line.startswith("nameserver")]
        if lines and not all(line.split()[1].startswith("127.") for line in lines):
            return text
    return "nameserver 9.9.9.9\n"
