"""A real Slurm on one host: slurmctld and several slurmd, up in seconds, gone without a trace.

By hand: `python -m tests.rig.rig up [DIRECTORY]`, the `export SLURM_CONF=...` that it prints, and
in the end `python -m tests.rig.rig down [DIRECTORY]`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BY_HAND = Path("/tmp/dto-rig")
_SCRUBBED = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "DTO_")

_SLURM_CONF = Path(__file__).with_name("slurm.conf.in")
_NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
    "CPUs={cpus} RealMemory=4000 Gres=gpu:2 State=UNKNOWN"
)


class RigError(Exception):
    """The rig could not be started; the message holds the tail of Slurm's own log."""


@dataclass(frozen=True)
class Daemon:
    """One process that we started: its pid alone could be reused, its start time tells."""

    name: str
    pid: int
    started: str

    def is_alive(self) -> bool:
        return _started(self.pid) == self.started


class Rig:
    """Three virtual nodes n1 n2 n3 of four CPUs and two fake GPUs each, in partition `gpu`."""

    def __init__(self, directory: Path, nodes: int = 3, cpus: int = 4) -> None:
        self.directory = directory
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.cpus = cpus
        self.conf = directory / "slurm.conf"
        self.daemons: list[Daemon] = []

    def __enter__(self) -> Rig:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def env(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """A user's environment on this cluster: nothing of an outer job, and where Slurm is."""
        base = os.environ if base is None else base
        kept = {name: value for name, value in base.items() if not name.startswith(_SCRUBBED)}
        kept["PATH"] = kept.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
        return kept | {"SLURM_CONF": str(self.conf)}

    def run(self, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster; its exit code is the caller's to judge."""
        return subprocess.run(
            argv, env=self.env(), text=True, capture_output=True, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def submit(self, *options: str, wrap: str) -> str:
        """Submit one shell line with plain sbatch; return the job's id."""
        done = self.run("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", wrap)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self) -> None:
        self._configure()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        if not wait_for(self._all_idle, timeout=30):
            raise RigError(f"the rig's nodes did not come up:\n{self._log_tails()}")

    def start_controller(self) -> None:
        self._spawn("slurmctld", "-D", "-f", str(self.conf))

    def lose_controller(self) -> None:
        """Kill slurmctld; jobs go on, and it knows them when it is started again."""
        [controller] = [daemon for daemon in self.daemons if daemon.name == "slurmctld"]
        _kill(controller)
        self.daemons.remove(controller)

    def start_node(self, node: str) -> None:
        self._spawn("slurmd", "-D", "-N", node, "-f", str(self.conf), name=node)

    def lose_node(self, node: str) -> None:
        """Kill a node's slurmd and all that runs on it, at once, as when its power fails."""
        for daemon in [daemon for daemon in self.daemons if daemon.name == node]:
            _kill(daemon)
            self.daemons.remove(daemon)
        _end_all(lambda: self._strays([node]))

    def state_of(self, job_id: str) -> str:
        """Slurm's word for a job, such as RUNNING or COMPLETED; empty if it knows no such job."""
        return self.run("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T").stdout.strip()

    def wait_for_state(self, job_id: str, *states: str, timeout: float = 60) -> str:
        """Wait until the job is in one of these states; TimeoutError names the one it is in."""
        if not wait_for(lambda: self.state_of(job_id) in states, timeout=timeout):
            found = self.state_of(job_id)
            raise TimeoutError(f"job {job_id} is {found}, not {' or '.join(states)}")
        return self.state_of(job_id)

    def cancel_all(self, timeout: float = 20) -> None:
        """Leave an empty queue to the next test."""
        self.run("scancel", "--full", "--signal=KILL", "--user=root")
        self.run("scancel", "--user=root")
        wait_for(lambda: not self.run("squeue", "-h").stdout.strip(), timeout=timeout)

    def stop(self) -> None:
        """End every job, daemon and stray slurmstepd of this rig, each by its own pid."""
        if any(daemon.name == "slurmctld" and daemon.is_alive() for daemon in self.daemons):
            self.cancel_all(timeout=10)
        for daemon in reversed(self.daemons):
            _kill(daemon)
        self.daemons.clear()
        _end_all(lambda: self._strays(self.nodes))

    def _configure(self) -> None:
        for name in ("state", *self.nodes):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            _make_device(self.directory / f"gpu{number}")
        host = socket.gethostname().split(".")[0]
        ports = _free_ports(1 + len(self.nodes))
        lines = [
            _NODE.format(name=name, host=host, port=port, cpus=self.cpus)
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        text = _SLURM_CONF.read_text().format(
            host=host, port=ports[0], directory=self.directory, nodes="\n".join(lines)
        )
        self.conf.write_text(text)
        names = ",".join(self.nodes)
        gres = f"NodeName={names} Name=gpu File={self.directory}/gpu[0-1]\n"
        (self.directory / "gres.conf").write_text(gres)
        cgroup = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
        (self.directory / "cgroup.conf").write_text(cgroup)

    def _spawn(self, *argv: str, name: str = "slurmctld") -> None:
        with (self.directory / f"{name}.stderr").open("ab") as errors:
            child = subprocess.Popen(
                argv, env=self.env(), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                cwd=self.directory, start_new_session=True,
            )  # fmt: skip
        self.daemons.append(Daemon(name, child.pid, _started(child.pid) or "gone"))
        _children[child.pid] = child

    def _all_idle(self) -> bool:
        dead = [daemon.name for daemon in self.daemons if not daemon.is_alive()]
        if dead:
            raise RigError(f"{', '.join(dead)} ended at once:\n{self._log_tails()}")
        states = self.run("sinfo", "-h", "-N", "-o", "%N %t").stdout.split("\n")
        return sorted(filter(None, states)) == [f"{node} idle" for node in self.nodes]

    def _strays(self, nodes: Sequence[str]) -> Iterator[int]:
        """Pids of what these nodes still run: tasks by their environment, stepds by their log."""
        logs = {str(self.directory / f"{node}.log") for node in nodes}
        names = {f"SLURMD_NODENAME={node}".encode() for node in nodes}
        conf = f"SLURM_CONF={self.conf}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = set((entry / "environ").read_bytes().split(b"\0"))
                if conf in environment and environment & names:
                    yield int(entry.name)
                elif (entry / "comm").read_text() == "slurmstepd\n":
                    links = {os.readlink(link) for link in (entry / "fd").iterdir()}
                    if links & logs:
                        yield int(entry.name)

    def _log_tails(self) -> str:
        logs = sorted([*self.directory.glob("*.log"), *self.directory.glob("*.stderr")])
        return "\n".join(f"{log.name}: {log.read_text()[-400:]}" for log in logs)


_children: dict[int, subprocess.Popen[bytes]] = {}  # so that our own children leave no zombies


def wait_for(condition: Callable[[], bool], timeout: float, every: float = 0.1) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _kill(daemon: Daemon) -> None:
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        if not daemon.is_alive():
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon.pid, number)
        wait_for(lambda: not daemon.is_alive(), timeout=seconds, every=0.02)
    child = _children.pop(daemon.pid, None)
    if child is not None:
        child.wait(timeout=5)


def _end_all(find: Callable[[], Iterator[int]]) -> None:
    def none_left() -> bool:
        found = list(find())
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_for(none_left, timeout=10, every=0.05)


def _make_device(path: Path) -> None:
    """A character device that stands for a GPU; it is /dev/null under another name."""
    if not path.exists():
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def _free_ports(count: int) -> list[int]:
    """Ports below the ephemeral range that nobody listens on now."""
    found: list[int] = []
    port = 20000 + os.getpid() % 8000
    while len(found) < count:
        port = port + 1 if port < 32000 else 20000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            found.append(port)
    return found


@contextlib.contextmanager
def temporary_rig(nodes: int = 3) -> Iterator[Rig]:
    """A rig in a folder of its own, which goes with it."""
    directory = Path(tempfile.mkdtemp(prefix="dto-rig-"))
    try:
        with Rig(directory, nodes) as rig:
            yield rig
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(argv: Sequence[str]) -> int:
    directory = Path(argv[1]) if len(argv) > 1 else _BY_HAND
    record = directory / "daemons.json"
    rig = Rig(directory)
    if argv[:1] == ["up"] and record.exists():
        print(f"{directory} is up; end it with: python -m tests.rig.rig down {directory}")
        return 1
    if argv[:1] == ["up"]:
        rig.start()
        record.write_text(json.dumps([vars(daemon) for daemon in rig.daemons]))
        print(f"export SLURM_CONF={rig.conf}")
        return 0
    if argv[:1] == ["down"] and record.exists():
        rig.daemons = [Daemon(**row) for row in json.loads(record.read_text())]
        rig.stop()
        shutil.rmtree(directory)
        return 0
    print("usage: python -m tests.rig.rig up|down [DIRECTORY]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
