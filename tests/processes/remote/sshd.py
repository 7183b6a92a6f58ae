"""A real sshd on loopback, with keys of its own, that is gone when the test is."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dto.remote.host_keys import HostKey, append_known_host, parse_key
from dto.remote.target import SshTarget
from tests.helpers import cannot

SSHD = "/usr/sbin/sshd"
_START_SECONDS = 20


@dataclass
class Sshd:
    """A server that lets in the holder of `key`."""

    folder: Path
    port: int
    key: Path
    host_key: HostKey
    process: subprocess.Popen[bytes]
    address: str = "127.0.0.1"
    user: str = field(default_factory=getpass.getuser)

    @property
    def log(self) -> str:
        return (self.folder / "sshd.log").read_text(errors="replace")

    def known_hosts(self) -> Path:
        """A file that vouches for this server."""
        file = self.folder / "known_hosts"
        if not file.exists():
            append_known_host(file, self.address, self.port, self.host_key)
        return file

    def target(self, **changes: object) -> SshTarget:
        """How to log in here, up to what a test wants otherwise."""
        usual: dict[str, object] = {
            "address": self.address,
            "port": self.port,
            "user": self.user,
            "key": self.key,
            "known_hosts": (self.known_hosts(),),
        }
        return SshTarget(**{**usual, **changes})  # type: ignore[arg-type]

    def sessions(self) -> list[psutil.Process]:
        """What serves the connections that are open, and what runs in them."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill_sessions(self) -> None:
        """Cut every connection as a crash does."""
        _kill(self.sessions())


def make_key(path: Path, *options: str, passphrase: str = "") -> Path:
    """Make a key pair with ssh-keygen; ed25519 unless the options say otherwise."""
    kind = [] if "-t" in options else ["-t", "ed25519"]
    words = ["ssh-keygen", "-q", "-N", passphrase, "-C", path.name, *kind, *options, "-f"]
    subprocess.run([*words, str(path)], check=True, timeout=60)
    return path


def public(path: Path) -> str:
    return path.with_name(f"{path.name}.pub").read_text()


@contextmanager
def serving(folder: Path, *settings: str, key: Path | None = None) -> Iterator[Sshd]:
    """Start a server in a new folder; `settings` are lines of sshd_config."""
    missing = [one for one in (SSHD, "ssh-keygen") if shutil.which(one) is None]
    if missing:
        cannot(f"needs {', '.join(missing)} (Debian: openssh-server openssh-client)")
    folder.mkdir(parents=True)
    host_key = make_key(folder / "host_key")
    key = key or make_key(folder / "key")
    (folder / "authorized_keys").write_text(public(key))
    with _separation_folder():
        process, port = _start(folder, settings)
        server = Sshd(folder, port, key, parse_key(public(host_key)), process)
        try:
            yield server
        finally:
            children = server.sessions() if process.poll() is None else []
            process.terminate()
            process.wait(10)
            _kill(children)


def _start(folder: Path, settings: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(3):  # another program may take the free port first
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        config = folder / "sshd_config"
        config.write_text("\n".join([*settings, *_usual(folder, port)]) + "\n")
        with (folder / "sshd.log").open("wb") as log:
            process = subprocess.Popen(
                [*_with_us(), SSHD, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        if _is_listening(process, folder / "sshd.log"):
            return process, port
        process.kill()
        process.wait(10)
    cannot(f"sshd does not start: {(folder / 'sshd.log').read_text()[-300:]}")
    raise AssertionError


def _with_us() -> list[str]:
    """What ends a server with the tests, should these be killed."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def _usual(folder: Path, port: int) -> list[str]:
    return [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        f"PidFile {folder}/sshd.pid",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "StrictModes no",
        f"UsePAM {'yes' if _is_account_locked() else 'no'}",
        "UseDNS no",
        "LogLevel VERBOSE",
    ]


def _is_account_locked() -> bool:
    """Without PAM, sshd turns a locked account away, whatever its key."""
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{getpass.getuser()}:!") for line in lines)


def _is_listening(process: subprocess.Popen[bytes], log: Path) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if "Server listening on" in log.read_text(errors="replace"):
            return True
        time.sleep(0.02)
    return False


@contextmanager
def _separation_folder() -> Iterator[None]:
    """What root's sshd wants to find, and its unit makes where it runs as a service."""
    folder = Path("/run/sshd")
    is_ours = os.geteuid() == 0 and not folder.exists()
    if is_ours:
        folder.mkdir(mode=0o755)
    try:
        yield
    finally:
        if is_ours:
            with suppress(OSError):  # another test's server may have come to use it
                folder.rmdir()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


@contextmanager
def agent(*keys: Path) -> Iterator[str]:
    """A running ssh-agent that holds these keys; its socket's path."""
    folder = keys[0].parent
    path = str(folder / "agent.sock")
    process = subprocess.Popen(
        [*_with_us(), "ssh-agent", "-D", "-a", path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.02)
        environment = {**os.environ, "SSH_AUTH_SOCK": path}
        words = ["ssh-add", "-q", *map(str, keys)]
        subprocess.run(words, env=environment, check=True, timeout=20)
        yield path
    finally:
        process.terminate()
        process.wait(10)
