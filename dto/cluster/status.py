"""What SLURM says of a cluster now: nodes with their reasons, partitions, queue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dto.errors import ClusterError
from dto.remote.host import Host

_SECONDS = 20.0
_FIELD = re.compile(r"(?:^| )([A-Z][A-Za-z:]*)=")
_QUIET_FLAGS = {"DYNAMIC_NORM", "DYNAMIC_FUTURE", "CLOUD"}
_BAD = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "UNKNOWN", "INVAL")
_JOB = "%i|%P|%u|%T|%M|%D|%R|%j"


@dataclass(frozen=True)
class NodeStatus:
    """One node as the controller sees it."""

    name: str
    state: str
    address: str
    partitions: tuple[str, ...]
    cpus: int
    cpus_used: int
    memory_mib: int
    gpus: int
    gpus_used: int
    reason: str = ""

    @property
    def takes_jobs(self) -> bool:
        upper = self.state.upper()
        return not any(word in upper for word in _BAD) and not upper.endswith("*")


@dataclass(frozen=True)
class Job:
    """One line of the queue; `why` is its nodes, or the reason it waits for."""

    id: str
    name: str
    user: str
    partition: str
    state: str
    elapsed: str
    nodes: str
    why: str


@dataclass(frozen=True)
class ClusterStatus:
    name: str
    controller: str
    version: str
    partitions: tuple[str, ...]
    nodes: tuple[NodeStatus, ...]
    jobs: tuple[Job, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def node(self, name: str) -> NodeStatus | None:
        return next((node for node in self.nodes if node.name == name), None)


def ask(host: Host) -> ClusterStatus:
    """Ask the controller through one of its machines.

    Raises:
        ClusterError: SLURM is not on it, or its controller does not answer.
    """
    config = _fields_by_line(_run(host, "scontrol", "show", "config"))
    return ClusterStatus(
        name=config.get("ClusterName", ""),
        controller=config.get("SlurmctldHost[0]", ""),
        version=config.get("SLURM_VERSION", ""),
        partitions=tuple(_run(host, "sinfo", "-h", "-o", "%R").split()),
        nodes=parse_nodes(_run(host, "scontrol", "--oneliner", "--details", "show", "node")),
        jobs=parse_queue(_run(host, "squeue", "-h", "-o", _JOB)),
    )


def _run(host: Host, *argv: str) -> str:
    done = host.run(argv, timeout=_SECONDS)
    if done.code == 127:
        raise ClusterError(f"no SLURM on {host.name}: set the cluster up first (dto cluster setup)")
    if not done.is_ok:
        words = (done.err.strip().splitlines() or ["it does not answer"])[-1]
        raise ClusterError(f"{host.name}: {argv[0]}: {words}; look at `systemctl status slurmctld`")
    return done.out


def parse_nodes(text: str) -> tuple[NodeStatus, ...]:
    """Read `scontrol --oneliner --details show node`."""
    return tuple(
        _node(fields) for line in text.splitlines() if "NodeName" in (fields := _fields(line))
    )


def _node(fields: dict[str, str]) -> NodeStatus:
    return NodeStatus(
        name=fields["NodeName"],
        state=_state(fields.get("State", "UNKNOWN")),
        address=fields.get("NodeAddr", ""),
        partitions=tuple(name for name in fields.get("Partitions", "").split(",") if name),
        cpus=_number(fields.get("CPUTot", "")),
        cpus_used=_number(fields.get("CPUAlloc", "")),
        memory_mib=_number(fields.get("RealMemory", "")),
        gpus=count_gpus(fields.get("Gres", "")),
        gpus_used=count_gpus(fields.get("GresUsed", "")),
        reason=re.sub(r"\s*\[[^\s\[\]]*@[^\[\]]*\]$", "", fields.get("Reason", "")),
    )


def _fields(line: str) -> dict[str, str]:
    """Take `Key=value Key=value with spaces` apart."""
    found = list(_FIELD.finditer(line))
    ends = [*(match.start() for match in found[1:]), len(line)][: len(found)]
    pairs = zip(found, ends, strict=True)
    return {match[1]: line[match.end() : end].strip() for match, end in pairs}


def _fields_by_line(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _state(raw: str) -> str:
    return "+".join(word for word in raw.split("+") if word not in _QUIET_FLAGS).lower()


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def count_gpus(gres: str) -> int:
    """Count the GPUs in `gpu:h100:2(S:0-1),gpu:a100:1`."""
    plain = re.sub(r"\([^)]*\)", "", gres)
    words = [word.split(":") for word in plain.split(",") if word.startswith("gpu")]
    return sum(_number(word[-1]) for word in words if len(word) > 1)


def parse_queue(text: str) -> tuple[Job, ...]:
    rows = (line.split("|", 7) for line in text.splitlines() if line.count("|") >= 7)
    return tuple(
        Job(id=i, partition=p, user=u, state=s, elapsed=t, nodes=n, why=why, name=name)
        for i, p, u, s, t, n, why, name in rows
    )


def tables(status: ClusterStatus) -> list[tuple[Sequence[str], list[Sequence[str]]]]:
    """Return what people read: heads and rows of the nodes and of the queue."""
    nodes: list[Sequence[str]] = [
        (
            node.name,
            node.state,
            ",".join(node.partitions),
            f"{node.cpus_used}/{node.cpus}",
            f"{node.gpus_used}/{node.gpus}" if node.gpus else "-",
            node.reason,
        )
        for node in status.nodes
    ]
    jobs: list[Sequence[str]] = [
        (job.id, job.name, job.user, job.partition, job.state, job.elapsed, job.nodes, job.why)
        for job in status.jobs
    ]
    return [
        (("node", "state", "partitions", "cpus", "gpus", "reason"), nodes),
        (("job", "name", "user", "partition", "state", "time", "nodes", "where or why"), jobs),
    ]
