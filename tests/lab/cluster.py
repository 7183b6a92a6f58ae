"""A cluster as its operator and its users see it: set up by our own script, used over ssh."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.helpers import PROGRAMS, REPOSITORY
from tests.lab.commands import LabError, run, wait_until
from tests.lab.image import LOGIN
from tests.lab.lab import Lab
from tests.lab.operator import SETUP, Operator, changes, kill_tree

_ENDED = ("COMPLETED", "FAILED", "STOPPED", "CANCELLED")
_FREE = ("idle", "mixed", "allocated", "mix", "alloc", "completing", "comp")
# What names the hosts by itself, so that the record must not.
_OTHER_SOURCES = ("--join", "--role", "--local", "--master-ip", "--inventory", "--from-terraform")


class Cluster:
    """`setup` makes it; the rest asks it. Commands' exit codes are the caller's to judge."""

    EPOCHS = 4
    SAMPLES = 100
    BATCH = 8

    def __init__(
        self, lab: Lab, home: Path, *, name: str, head: str, workers: Sequence[str]
    ) -> None:
        self.lab, self.name, self.head, self.workers = lab, name, head, tuple(workers)
        self.operator = Operator(home)
        self.changed: dict[str, Any] = {}
        """Keys of the record that a test sets for its own setups."""

    @property
    def home(self) -> Path:
        return self.operator.home

    # The operator

    def record(self) -> dict[str, Any]:
        """cluster.yaml as somebody writes it who noted the hosts' keys down."""
        def host(name: str) -> dict[str, Any]:
            about = self.lab.host(name)
            return {"name": name, "address": about.address,
                    **({"gpus": about.gpus} if about.gpus else {})}  # fmt: skip

        members = [self.head, *self.workers]
        wheels = {"wheels": str(self.lab.wheels)} if self.lab.wheels else {}
        keys = {self.lab.address(name): [self.lab.host(name).host_key] for name in members}
        public = self.lab.key.with_suffix(".pub").read_text().strip()
        return {
            "version": 1, "name": self.name, "host_keys": keys,
            "ssh": {"user": LOGIN, "key": str(self.lab.key)},
            "head": {"name": self.head, "address": self.lab.address(self.head)},
            "nodes": [host(name) for name in self.workers],
            "users": [{"name": "ada", "uid": 2001, "keys": [public]}],
            "shared": {"kind": "existing"}, "software": wheels,
            # The hosts share this machine's kernel, whose control groups may be v1.
            "slurm": {"proctrack": "linuxproc", "task_plugin": "none"}, **self.changed,
        }  # fmt: skip

    def nodes_with(self, **more: Any) -> list[dict[str, Any]]:
        """The workers of the record, each with more said of it; for `changed`."""
        return [{**node, **more} for node in self.record()["nodes"]]

    @property
    def lab_flags(self) -> tuple[str, ...]:
        """What a setup that is typed on a host needs here because it is a lab."""
        return ("--wheels", "/wheels") if self.lab.wheels else ()

    def _words(self, flags: Sequence[str]) -> list[str]:
        if any(flag.split("=")[0] in _OTHER_SOURCES for flag in flags):
            named = [] if "--cluster-name" in flags else ["--cluster-name", self.name]
            joins = any(flag.startswith("--join") for flag in flags)
            return [*named, *(["--accept-new-host-keys"] if joins else []), *flags]
        path = self.home / "cluster.yaml"
        path.write_text(yaml.safe_dump(self.record(), sort_keys=False))
        return ["--inventory", str(path), *flags]

    def setup(self, *flags: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """cluster-setup.sh with the cluster's record, or with flags that name other hosts."""
        return self.operator.run(str(SETUP), "--yes", *self._words(flags), timeout=timeout)

    def start_setup(self, *flags: str) -> subprocess.Popen[bytes]:
        """The same, to be killed."""
        argv = [str(SETUP), "--yes", *self._words(flags)]
        return self.operator.start(*argv, log=self._setup_log)

    @property
    def _setup_log(self) -> Path:
        return self.home / "started-setup.log"

    def kill_setup(self, process: subprocess.Popen[bytes]) -> None:
        kill_tree(process.pid)
        process.wait(timeout=30)

    def progress_of(self, process: subprocess.Popen[bytes]) -> str:
        """The last line that a started setup printed."""
        lines = self._setup_log.read_text(errors="replace").splitlines()
        ended = f" (it had ended with {process.returncode})" if process.returncode != -9 else ""
        return (lines[-1] if lines else "nothing was printed") + ended

    def changes(self, done: subprocess.CompletedProcess[str]) -> dict[str, int]:
        """Host -> how many tasks changed something there."""
        return changes(done.stdout, self.lab.hosts)

    def summary(self) -> str:
        [path] = (self.home / ".local/state/dto/clusters").glob(f"{self.name}/cluster_summary.txt")
        return path.read_text()

    def dto(self, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A dto command on the operator's machine."""
        return self.operator.dto(*args, timeout=timeout)

    # On a host's own keyboard

    def setup_on(
        self, host: str, *flags: str, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """cluster-setup.sh from a copy of this checkout on a host, typed there."""
        self._bring_checkout(host)
        needed = "dpkg -s python3-venv >/dev/null 2>&1 || sudo apt-get install -qq -y python3-venv"
        done = self.lab.ssh(host, f"{{ {needed}; }} >/dev/null 2>&1", timeout=120)
        if done.returncode:
            raise LabError(f"no python3-venv on {host}")
        offline = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels" if self.lab.wheels else ""
        line = f"cd checkout && {offline} scripts/cluster-setup.sh --yes {shlex.join(flags)}"
        return self.lab.ssh(host, line, timeout=timeout)

    def operator_flags_on(self, host: str) -> tuple[str, ...]:
        """What the operator of `--role worker` types on that host: the way to the head."""
        key = self.lab.key.read_text()
        self.lab.ssh(host, "umask 077; mkdir -p ~/.ssh; cat > ~/.ssh/cluster-key", stdin=key)
        known = self.lab.known_hosts.read_text()
        self.lab.ssh(host, "cat >> ~/.ssh/known_hosts", stdin=known)
        return ("--user", LOGIN, "--private-key", f"/home/{LOGIN}/.ssh/cluster-key")

    def _bring_checkout(self, host: str) -> None:
        listed = run("git", "-C", str(REPOSITORY), "ls-files", "-coz", "--exclude-standard").stdout
        present = [name for name in listed.split("\0") if name and (REPOSITORY / name).exists()]
        archive = self.home / "checkout.tar"
        run("tar", "-C", str(REPOSITORY), "-cf", str(archive), "--null", "-T", "-",
            text="\0".join(present))  # fmt: skip
        argv = [*self.lab.ssh_command(host), "mkdir -p checkout && tar -C checkout -xf -"]
        with archive.open("rb") as file:
            subprocess.run(argv, stdin=file, check=True, timeout=60, capture_output=True)

    # On the head, as a user

    def on_head(self, line: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return self.lab.ssh(self.head, line, timeout=timeout)

    def nodes(self) -> dict[str, str]:
        """Node -> its state in SLURM's words, such as idle or down*."""
        done = self.on_head("sinfo --noheader --Node --format '%N %T'")
        return dict(line.split() for line in done.stdout.splitlines())

    def wait_idle(self, *names: str, timeout: float = 180) -> None:
        self._wait_states(("idle",), names, timeout)

    def wait_idle_or_busy(self, *names: str, timeout: float = 180) -> None:
        """Wait until nodes take jobs, whether they have one or not."""
        self._wait_states(_FREE, names, timeout)

    def _wait_states(self, wanted: Sequence[str], names: Sequence[str], timeout: float) -> None:
        try:
            wait_until(
                lambda: all(self.nodes().get(name) in wanted for name in names),
                f"{', '.join(names)} to be {' or '.join(wanted)}", timeout, every=1.0,
            )  # fmt: skip
        except LabError as error:
            listed = self.on_head("sinfo --list-reasons; sinfo --Node --long; squeue --long")
            raise LabError(f"{error}\n{listed.stdout}") from None

    def submit(self, *args: str) -> str:
        """`dto submit ARGS` in the user's work folder; the run's id."""
        done = self.on_head(f"cd ~/dto && dto submit --json {shlex.join(args)}")
        if done.returncode:
            raise LabError(f"dto submit {shlex.join(args)}: {done.stderr or done.stdout}")
        return str(json.loads(done.stdout)["run"])

    def steady(
        self, *options: str, name: str, every: int = 3, pace: float = 0.5,
        epochs: int | None = None,
    ) -> str:  # fmt: skip
        """Submit the job of tests/programs/steady.py; its results are asked for by `name`."""
        text = (PROGRAMS / "steady.py").read_text()
        done = self.lab.ssh(self.head, "cat > ~/dto/steady.py", stdin=text)
        if done.returncode:
            raise LabError(f"no place for a job on {self.head}: {done.stderr}")
        return self.submit(
            "--name", name, "--cpus-per-rank", "1", "--time", "10m", *options, "steady.py",
            self._out(name), "--epochs", str(epochs or self.EPOCHS), "--every", f"{every}steps",
            "--pace", str(pace), "--dataset", str(self.SAMPLES),
        )  # fmt: skip

    def _out(self, name: str) -> str:
        return f"/shared/work/{LOGIN}/out-{name}"

    def status(self, run: str) -> dict[str, Any]:
        done = self.on_head(f"dto status {run} --json")
        if done.returncode not in (0, 1):
            raise LabError(f"dto status {run}: {done.stderr or done.stdout}")
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def at_step(self, run: str, step: int, timeout: float = 120) -> int:
        """Wait until a running job has made so many steps; return how many it has."""
        self._wait_run(run, lambda now: (now.get("step") or 0) >= step, f"step {step}", timeout)
        return int(self.status(run)["step"])

    def wait_state(self, run: str, *states: str, timeout: float = 180) -> dict[str, Any]:
        self._wait_run(run, lambda now: now["state"] in states, " or ".join(states), timeout)
        return self.status(run)

    def ended(self, run: str, timeout: float = 300) -> dict[str, Any]:
        """Wait for a run's end and return its status."""
        return self.wait_state(run, *_ENDED, timeout=timeout)

    def _wait_run(self, run: str, reached: Any, what: str, timeout: float) -> None:
        try:
            wait_until(lambda: reached(self.status(run)), f"{run}: {what}", timeout, every=2.0)
        except LabError as error:
            raise LabError(f"{error}\n{self.status(run)}\n{self.logs(run)[-2000:]}") from None

    def logs(self, run: str) -> str:
        done = self.on_head(f"dto logs {run}")
        return done.stdout + done.stderr

    def weights(self, name: str) -> str:
        """The hash of the weights that a steady job ended with, the same on every rank."""
        done = self.on_head(f"head -q -n 1 {self._out(name)}/weights-*.txt | sort -u")
        lines = done.stdout.split()
        if len(lines) != 1:
            raise LabError(f"{name} ended with {len(lines)} different weights: {done.stderr}")
        return lines[0]

    def times_read(self, name: str) -> list[int]:
        """How often each sample was read, over all attempts."""
        done = self.on_head(f"cat {self._out(name)}/seen-*.txt")
        read = [int(word) for word in done.stdout.split()]
        return [read.count(sample) for sample in range(self.SAMPLES)]

    def repeated_steps(self, name: str) -> float:
        """How many steps' worth of samples were read more often than there were epochs."""
        extra = sum(times - self.EPOCHS for times in self.times_read(name))
        return extra / self.BATCH
