"""What a rank finds in its environment, for every framework at once (design: contract 2)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Seating:
    """Where one rank sits, and whom it meets where."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    node_rank: int
    nodes: int
    node: str
    master_address: str
    master_port: int
    jax_port: int
    kv_address: str
    kv_port: int
    interface: str
    tf_workers: Sequence[str]
    """host:port of every rank, for TensorFlow."""
    threads: int


@dataclass(frozen=True)
class Job:
    """What is the same for all ranks of a generation."""

    run_dir: str
    attempt: int
    generation: int
    backend: str
    deadline: float | None


DEFAULTS = ("OMP_NUM_THREADS", "PYTHONUNBUFFERED", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
"""Names that a person may set better than we do; all others of the table are ours."""


def rank_environment(seat: Seating, job: Job, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set for one rank on top of its agent's own.

    `given` is what the agent's environment and the person's `env` already hold.
    """
    table = {
        **_torch(seat),
        "TORCHELASTIC_RUN_ID": os.path.basename(job.run_dir),
        "TORCHELASTIC_RESTART_COUNT": str(job.generation),
        "TORCHELASTIC_USE_AGENT_STORE": "False",  # rank 0 opens MASTER_PORT itself
        **_horovod(seat),
        **_jax_and_tensorflow(seat),
        "DTO_RUN_DIR": job.run_dir,
        "DTO_ATTEMPT": str(job.attempt),
        "DTO_GENERATION": str(job.generation),
        "DTO_BACKEND": job.backend,
        "DTO_NODE": seat.node,
        "DTO_DEADLINE": "" if job.deadline is None else f"{job.deadline:.3f}",
        "GLOO_SOCKET_IFNAME": seat.interface,
        "OMP_NUM_THREADS": str(seat.threads),
        "PYTHONUNBUFFERED": "1",
    }
    if seat.nodes > 1:  # on one machine NCCL finds its own way, and better
        table["NCCL_SOCKET_IFNAME"] = f"={seat.interface}"
    return {
        name: value
        for name, value in table.items()
        if not (name in DEFAULTS and given.get(name)) and value != ""
    }


def _torch(seat: Seating) -> dict[str, str]:
    return {
        "RANK": str(seat.rank),
        "WORLD_SIZE": str(seat.world),
        "LOCAL_RANK": str(seat.local_rank),
        "LOCAL_WORLD_SIZE": str(seat.local_world),
        "GROUP_RANK": str(seat.node_rank),
        "GROUP_WORLD_SIZE": str(seat.nodes),
        "ROLE_RANK": str(seat.rank),
        "ROLE_WORLD_SIZE": str(seat.world),
        "MASTER_ADDR": seat.master_address,
        "MASTER_PORT": str(seat.master_port),
    }


def _horovod(seat: Seating) -> dict[str, str]:
    """What horovodrun would have set (horovod/runner/gloo_run.py).

    CROSS is the world of ranks with the same local rank; all nodes carry equally many here.
    HOSTNAME must differ per node, or all nodes meet in one local scope and hang; the default time
    limit of 30 s is too short for a cold import over NFS (horovod issue 2015).
    """
    return {
        "HOROVOD_RANK": str(seat.rank),
        "HOROVOD_SIZE": str(seat.world),
        "HOROVOD_LOCAL_RANK": str(seat.local_rank),
        "HOROVOD_LOCAL_SIZE": str(seat.local_world),
        "HOROVOD_CROSS_RANK": str(seat.node_rank),
        "HOROVOD_CROSS_SIZE": str(seat.nodes),
        "HOROVOD_HOSTNAME": seat.node,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": seat.kv_address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(seat.kv_port),
        "HOROVOD_GLOO_IFACE": seat.interface,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
    }


def _jax_and_tensorflow(seat: Seating) -> dict[str, str]:
    tf_config = {
        "cluster": {"worker": list(seat.tf_workers)},
        "task": {"type": "worker", "index": seat.rank},
    }
    return {
        "JAX_COORDINATOR_ADDRESS": f"{seat.master_address}:{seat.jax_port}",
        "JAX_NUM_PROCESSES": str(seat.world),
        "JAX_PROCESS_ID": str(seat.rank),
        "TF_CONFIG": json.dumps(tf_config),
    }
