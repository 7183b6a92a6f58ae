"""Empties a node: no new jobs, those on it save and go on elsewhere; and takes it out of SLURM."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from dto.cluster.node import slurm
from dto.cluster.node.commands import run
from dto.cluster.node.errors import NodeError, SlurmError
from dto.cluster.node.facts import PEER_PORT

_log = logging.getLogger("dto.retire")
_SLURMD_PORT = 6818
_EVERY_SECONDS = 1.0
_DELETE_SECONDS = 60.0
_ASKS = re.compile(r"\bUSR1\b|\bSIGUSR1\b")


@dataclass(frozen=True)
class Occupant:
    """A job on the node; `hears` means that USR1 makes it save, where others would die of it."""

    job_id: str
    state: str
    hears: bool
    may_requeue: bool


def parse_occupant(job: slurm.Job, shown: str, script: str) -> Occupant:
    """Judge a job by `scontrol show job` and by its batch script."""
    may_requeue = "Requeue=1" in shown and "BatchFlag=1" in shown
    hears = job.is_ours or bool(_ASKS.search(script))
    return Occupant(job.job_id, job.state, hears and "BatchFlag=1" in shown, may_requeue)


def occupants(name: str = "") -> list[Occupant]:
    """Return the jobs on a node; without a name, on all of them."""
    found = []
    where = [f"--nodelist={name}"] if name else []
    for job in slurm.jobs(*where, "--states=RUNNING,SUSPENDED,COMPLETING,STOPPED"):
        shown = slurm.scontrol("--oneliner", "show", "job", job.job_id).out
        script = slurm.scontrol("write", "batch_script", job.job_id, "-").out
        found.append(parse_occupant(job, shown, script))
    return found


def empty(name: str, why: str, limit: float, peer_port: int = PEER_PORT) -> str:
    """Drain a node and wait until no job is on it; returns what is worth telling.

    Jobs that listen are asked at once to save, and leave. After `limit` seconds the others are
    queued again, where that is allowed.

    Raises:
        NodeError: a job that may not be queued again still runs.
    """
    state = slurm.node(name)
    if state is None:
        return f"{name} is not known to SLURM"
    keep_out(state, why)
    if not state.answers or is_dead(state.address, peer_port):
        # What ran there is lost with the node; its jobs go back into the queue now.
        slurm.change("update", f"nodename={name}", "state=down", f"reason={slurm.OURS} {why}")
        left = wait_until_empty(name, _DELETE_SECONDS)
        return _outcome(name, [], left, "it was dead, its jobs start again elsewhere")
    asked = ask_to_save(occupants(name))
    left = wait_until_empty(name, limit)
    stuck = [job for job in left if not job.may_requeue]
    queue_again(left)
    if left:
        left = wait_until_empty(name, _DELETE_SECONDS if not stuck else 1)
    return _outcome(name, asked, left, "it is empty")


def is_dead(address: str, peer_port: int) -> bool:
    """Tell whether neither slurmd nor our own service answers; SLURM would need a minute."""
    for port in (_SLURMD_PORT, peer_port):
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=5):
            return False
    return True


def keep_out(state: slurm.NodeState, why: str) -> None:
    """Drain a node, and let a person's own reason stand where they drained the node before."""
    if not state.is_drained or state.reason.startswith(slurm.OURS):
        slurm.drain(state.name, f"{slurm.OURS} {why}")


def ask_to_save(jobs: Iterable[Occupant]) -> list[str]:
    """Ask jobs that listen to save and to leave; returns their ids."""
    asked = []
    for job in jobs:
        if job.hears and job.state == "RUNNING":
            done = run("scancel", "--batch", "--signal=USR1", job.job_id,
                             env=slurm.environment())  # fmt: skip
            if done.code == 0:
                asked.append(job.job_id)
                _log.info("job %s is asked to save and to go on elsewhere", job.job_id)
    return asked


def queue_again(jobs: Iterable[Occupant]) -> list[str]:
    """Queue jobs again that did not leave by themselves, where that is allowed."""
    queued = []
    for job in jobs:
        if job.may_requeue and slurm.scontrol("requeue", job.job_id).code == 0:
            queued.append(job.job_id)
            _log.info("job %s did not leave by itself: queued again", job.job_id)
    return queued


def wait_until_empty(name: str, limit: float) -> list[Occupant]:
    until = time.monotonic() + limit
    while True:
        left = occupants(name)
        if not left or time.monotonic() > until:
            return left
        time.sleep(_EVERY_SECONDS)


def _outcome(name: str, asked: list[str], left: list[Occupant], words: str) -> str:
    if left:
        ids = " ".join(job.job_id for job in left)
        raise NodeError(
            f"job {ids} still runs on {name}, which takes no new ones: wait for it or cancel it "
            f"(scancel {ids}), then run this again"
        )
    return f"{name}: {words}" + (f"; saved and left: job {' '.join(asked)}" if asked else "")


def delete(name: str) -> str:
    """Take a node out of SLURM; it must be empty."""
    until = time.monotonic() + _DELETE_SECONDS
    while slurm.node(name) is not None:
        done = slurm.scontrol("delete", f"nodename={name}")
        if done.code and slurm.node(name) is not None:
            if time.monotonic() > until:
                raise SlurmError(f"SLURM keeps {name}: {done.said}")
            time.sleep(_EVERY_SECONDS)
    return f"{name} is out of the cluster"


def bring_back(name: str) -> str:
    """Undo a drain that one of our own programs made; a person's stays."""
    state = slurm.node(name)
    if state is None or not state.is_drained:
        return f"{name} is not drained"
    if not state.reason.startswith(slurm.OURS):
        return f"{name} stays drained: {state.reason}"
    slurm.resume(name)
    return f"{name} takes jobs"
