"""Where this process stands in the job, read from whichever launcher started it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from dto.errors import WorldError


@dataclass(frozen=True)
class Launcher:
    """The names one launcher uses; all of `required` are there, or the environment is half set."""

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str
    node_rank: str
    joined_by: tuple[str, ...] = ()
    """What more a world of several ranks cannot do without."""

    @property
    def required(self) -> tuple[str, str, str]:
        return (self.rank, self.size, self.local_rank)


LAUNCHERS = (
    Launcher(
        "torchrun",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        ("MASTER_ADDR", "MASTER_PORT"),
    ),
    Launcher(
        "horovod",
        "HOROVOD_RANK",
        "HOROVOD_SIZE",
        "HOROVOD_LOCAL_RANK",
        "HOROVOD_LOCAL_SIZE",
        "HOROVOD_CROSS_RANK",
        ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"),
    ),
)
SRUN = Launcher(
    "srun",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    "SLURM_TASKS_PER_NODE",
    "SLURM_NODEID",
    ("MASTER_ADDR", "MASTER_PORT"),
)


@dataclass(frozen=True)
class World:
    """One process's place in the job."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node_rank: int = 0
    node: str = "localhost"
    launcher: str = "none"

    @property
    def is_master(self) -> bool:
        return self.rank == 0


def read_world(env: Mapping[str, str]) -> World:
    """Return this process's place; a process that nobody launched is a world of one.

    Raises:
        WorldError: some of a launcher's variables are set and others are missing or senseless.
    """
    node = env.get("DTO_NODE") or env.get("SLURMD_NODENAME") or socket.gethostname()
    for launcher in LAUNCHERS:
        if any(name in env for name in launcher.required):
            return _read(launcher, env, node)
    # a batch script and a shell inside salloc carry SLURM_* too; only a step has several ranks
    if "SLURM_STEP_ID" in env and env.get("SLURM_NTASKS", "1") != "1":
        return _read(SRUN, env, node)
    return World(node=node)


def _read(launcher: Launcher, env: Mapping[str, str], node: str) -> World:
    needed: tuple[str, ...] = launcher.required
    if env.get(launcher.size) not in (None, "1"):
        needed += launcher.joined_by
    missing = [name for name in needed if not env.get(name)]
    if missing:
        present = [name for name in needed if env.get(name)]
        raise WorldError(
            f"the environment is half set: {', '.join(present) or 'empty names'} without"
            f" {', '.join(missing)}; start the script with dto run, torchrun or srun,"
            " or unset all of them for one process"
        )
    rank, size, local_rank = (_number(env, name) for name in launcher.required)
    if not 0 <= rank < size:
        raise WorldError(f"{launcher.rank}={rank} does not fit {launcher.size}={size}")
    node_rank = _number(env, launcher.node_rank) if env.get(launcher.node_rank) else 0
    local_size = env.get(launcher.local_size, "")
    known = int(local_size) if local_size.isdigit() else max(1, local_rank + 1)
    return World(rank, size, local_rank, known, node_rank, node, launcher.name)


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except ValueError:
        raise WorldError(f"{name}={env[name]!r} is not a whole number") from None
