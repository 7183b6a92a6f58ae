"""SLURM as root of a host sees it: nodes with their reasons, jobs, and changes to both."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dto.cluster.node.commands import Ran, run
from dto.cluster.node.errors import SlurmError

OURS = "dto:"
_CONFIGURATIONS = (
    "/etc/slurm/slurm.conf",
    "/run/slurm/conf/slurm.conf",
    "/var/spool/slurmd/conf-cache/slurm.conf",
    "/var/lib/slurm/slurmd/conf-cache/slurm.conf",
)


@dataclass(frozen=True)
class NodeState:
    """A line of `scontrol show node`."""

    name: str
    address: str
    flags: frozenset[str]
    reason: str
    gres: str = ""

    @property
    def is_drained(self) -> bool:
        return bool(self.flags & {"DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING"})

    @property
    def is_down(self) -> bool:
        return "DOWN" in self.flags

    @property
    def answers(self) -> bool:
        return "NOT_RESPONDING" not in self.flags and not self.is_down

    @property
    def gpus(self) -> int:
        found = re.findall(r"gpu(?::[^:,()]+)?:(\d+)", self.gres)
        return sum(map(int, found))

    def has_reason(self, *kinds: str) -> bool:
        """Tell whether we gave the reason, for one of these causes; a person's never counts."""
        return any(self.reason.startswith(f"{OURS} {kind}") for kind in kinds)


def parse_node(line: str) -> NodeState:
    """Read a line of `scontrol --oneliner show node`; a reason may hold anything."""
    rest, _, reason = line.partition(" Reason=")
    found = dict(re.findall(r"(\w+)=(\S*)", rest))
    state = found.get("State", "")
    flags = set(re.split(r"\+", state.rstrip("*~#!%$@^-")))
    if "*" in state:
        flags.add("NOT_RESPONDING")
    words = re.sub(r"\s*\[\S+@\S+\]\s*.*$", "", reason).strip()
    gres = found.get("Gres", "")
    return NodeState(
        found.get("NodeName", ""), found.get("NodeAddr", ""), frozenset(flags), words, gres
    )


@dataclass(frozen=True)
class Job:
    """A job in the queue, as far as we ask."""

    job_id: str
    state: str
    reason: str
    comment: str

    @property
    def is_ours(self) -> bool:
        return self.comment.startswith(OURS)


_JOB_FORMAT = "%i|%T|%r|%k"


def parse_jobs(text: str) -> list[Job]:
    rows = (line.split("|", 3) for line in text.splitlines())
    return [Job(*row) for row in rows if len(row) == 4]


def environment() -> dict[str, str]:
    """Point the commands at a configuration where they would not look: before slurmd has run."""
    if "SLURM_CONF" in os.environ:
        return {}
    path = next((path for path in _CONFIGURATIONS if Path(path).is_file()), "")
    return {"SLURM_CONF": path} if path not in ("", *_CONFIGURATIONS[:2]) else {}


def scontrol(*words: str, timeout: float = 30) -> Ran:
    return run("scontrol", *words, timeout=timeout, env=environment())


def change(*words: str) -> None:
    """Change something through scontrol.

    Raises:
        SlurmError: SLURM refused.
    """
    done = scontrol(*words)
    if done.code:
        raise SlurmError(f"scontrol {' '.join(words)}: {done.said}")


def nodes() -> list[NodeState]:
    done = scontrol("--oneliner", "show", "node")
    if done.code:
        raise SlurmError(f"SLURM does not say what its nodes are: {done.said}")
    lines = [line for line in done.out.splitlines() if line.startswith("NodeName=")]
    return [parse_node(line) for line in lines]


def node(name: str) -> NodeState | None:
    """Return one node; None where SLURM does not know it.

    Raises:
        SlurmError: SLURM does not answer, which is no answer.
    """
    done = scontrol("--oneliner", "show", "node", name)
    if done.out.startswith("NodeName="):
        return parse_node(done.out.splitlines()[0])
    if re.search(r"not found|invalid node", done.said, re.IGNORECASE):
        return None
    raise SlurmError(f"SLURM does not answer: {done.said}")


def jobs(*words: str) -> list[Job]:
    """Return jobs that squeue finds by these words."""
    argv = ("squeue", "--noheader", f"--format={_JOB_FORMAT}", *words)
    done = run(*argv, timeout=30, env=environment())
    if done.code:
        raise SlurmError(f"squeue: {done.said}")
    return parse_jobs(done.out)


def drain(name: str, reason: str) -> None:
    change("update", f"nodename={name}", "state=drain", f"reason={reason_text(reason)}")


def resume(name: str) -> None:
    """Take a drain back; a node that is down for another cause stays so."""
    change("update", f"nodename={name}", "state=undrain")


def reason_text(reason: str) -> str:
    """Return a reason that SLURM stores whole: one line, no quotes, no `=` to confuse a reader."""
    words = re.sub(r"[^\w .,:;/()+%@-]+", " ", reason)
    return " ".join(words.split())[:240]


def plain_names(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
