"""What dto asks of a scheduler; a new one is a module with these methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

# What dto told a rank about its own run and node; MASTER_ADDR and its like are set anew anyway.
_OF_A_RANK = {"DTO_RUN_DIR", "DTO_ATTEMPT", "DTO_GENERATION", "DTO_SOCKET", "DTO_DEADLINE",
              "DTO_NODE", "DTO_NODE_INDEX", "DTO_COORDINATOR", "DTO_TOKEN", "DTO_SUBMISSION",
              "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS"}  # fmt: skip


def outside_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Drop what an enclosing run of dto told its ranks: the new run is not that run.

    Its agents would all call themselves by that rank's node, and its interface is that node's.
    """
    return {k: v for k, v in env.items() if "DTO_RUN_DIR" not in env or k not in _OF_A_RANK}


@dataclass(frozen=True)
class QueueEntry:
    """The scheduler's word on one job."""

    job_id: str
    state: str
    reason: str = ""
    start: str = ""
    left: str = ""
    nodes: str = ""


class Scheduler(Protocol):
    """A place that takes job scripts.

    Every method raises ClusterError where the scheduler cannot be reached, and SchedulerError
    with the scheduler's own words where it refuses.
    """

    def command(self) -> list[str]:
        """Return the argument vector that `submit` hands the script to."""

    def submit(self, script: bytes) -> str:
        """Hand over a job script; return the job's id."""

    def nodes_of(self, partition: str | None) -> int | None:
        """Return how many nodes a partition (None: the default one) has, those that are down
        included; None where nobody knows."""

    def test(self, script: bytes) -> str:
        """Return what the scheduler says it would do with the script."""

    def query(self, job_ids: list[str]) -> dict[str, QueueEntry]:
        """Return what it knows of these jobs; one that it has forgotten is absent."""

    def cancel(self, job_id: str) -> None:
        """End a job, or take it out of the queue."""
