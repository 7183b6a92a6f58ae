"""The head's small service: hurries dto's requeued jobs, and answers the nodes' gates."""

from __future__ import annotations

import itertools
import logging
import re
import socket
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dto.cluster.node import gone, probes, slurm
from dto.cluster.node.errors import NodeError
from dto.cluster.node.facts import Node
from dto.cluster.node.peer import PeerServer
from dto.cluster.node.trouble import Trouble

_log = logging.getLogger("dto.head")
REMOVED = Path("/etc/dto/removed")
"""A file for each node that was taken out: one that comes back by itself must not register."""
_EVERY_SECONDS = 3.0
_TURNS_PER_WAKE = 5
SLURMD_PORT = 6818
_RETURNS = ("gate", "spot")
"""Our drains that end once a node's gate opens: its fault is gone, or it came back by itself."""
_PARKED_SECONDS = 400.0
"""A requeue parks for cred_expire (Slurm's default is 120); later is a person's wish."""


def is_parked(shown: str, now: datetime) -> bool:
    """Tell by `scontrol show job` whether SLURM itself, not a person, lets a requeued job wait."""
    restarts = re.search(r"\bRestarts=(\d+)", shown)
    start = re.search(r"\bStartTime=(\S+)", shown)
    if not restarts or not start or restarts[1] == "0" or "Reason=BeginTime" not in shown:
        return False
    try:
        wait = (datetime.fromisoformat(start[1]) - now).total_seconds()
    except ValueError:
        return False
    return 0 < wait < _PARKED_SECONDS


def hurry() -> list[str]:
    """Let dto's parked jobs start now; returns their ids."""
    waiting = slurm.jobs("--states=PENDING")
    ids = [job.job_id for job in waiting if job.is_ours and job.reason == "BeginTime"]
    hurried = []
    for job_id in ids:
        shown = slurm.scontrol("--oneliner", "show", "job", job_id).out
        if is_parked(shown, datetime.now()):
            done = slurm.scontrol("update", f"jobid={job_id}", "starttime=now")
            if done.code == 0:
                hurried.append(job_id)
    return hurried


def wake() -> list[str]:
    """Return nodes to service that were out of reach and answer again; returns their names.

    slurmctld does not ping a node that is down and does not answer (Slurm 22.05, ping_nodes), and
    slurmd registers only when it starts: after a cut cable such a node would stay down for good.
    Its gate is what lets its slurmd run at all.
    """
    woken = []
    for node in filter(is_lost, slurm.nodes()):
        if not (REMOVED / node.name).is_file() and listens(node.address):
            slurm.change("update", f"nodename={node.name}", "state=resume")
            woken.append(node.name)
    return woken


def is_lost(node: slurm.NodeState) -> bool:
    """Tell whether slurmctld took a node down for its silence; a person's `down` is not ours."""
    is_silent = node.is_down and "NOT_RESPONDING" in node.flags
    return is_silent and node.reason.lower().startswith("not responding")


def listens(address: str) -> bool:
    """Tell whether a slurmd runs there."""
    try:
        socket.create_connection((address, SLURMD_PORT), timeout=2).close()
    except OSError:
        return False
    return True


def answers(node: Node) -> dict[str, Any]:
    """Return what nodes may ask of the head beyond a greeting."""

    def hello(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        name = str(asked.get("name", ""))
        is_removed = "/" not in name and (REMOVED / name).is_file()
        return {"mark": _mark(node), "idle": _idle(name), "removed": is_removed}

    def gate(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"done": note_gate(str(asked["name"]), str(asked["reason"]))}

    return {"hello": hello, "gate": gate}


def note_gate(name: str, reason: str) -> str:
    """Drain a node whose gate stays closed; take that drain back once it opens."""
    try:
        state = slurm.node(name)
        if state is None:
            return "unknown"
        if reason and (not state.is_drained or state.has_reason("gate")):
            if state.reason != slurm.reason_text(reason):
                slurm.drain(name, reason)
            return "drained"
        if not reason and state.is_drained and state.has_reason(*_RETURNS):
            slurm.resume(name)
            return "resumed"
    except NodeError as error:
        return str(error)
    return "nothing"


def _mark(node: Node) -> str:
    try:
        return probes.mark(node)
    except OSError:
        return ""


def _idle(but: str) -> list[str]:
    """Return addresses of nodes that nobody's job runs on: an all-reduce there disturbs nobody."""
    try:
        found = slurm.nodes()
    except NodeError:
        return []
    return [state.address for state in found
            if "IDLE" in state.flags and state.answers and not state.is_drained
            and state.name != but][:4]  # fmt: skip


def serve(node: Node) -> None:
    """Run for ever; systemd ends us."""
    known = answers(node) if node.is_head else {"hello": lambda asked: {"up": probes.up_seconds()}}
    server = PeerServer((node.address, node.peer_port), known)
    if not node.is_head:
        server.serve_forever(poll_interval=5)
        return
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if node.is_replaced and node.is_dynamic:
        threading.Thread(target=gone.watch, args=(node,), daemon=True).start()
    trouble = Trouble(_log.warning, NodeError)
    for turn in itertools.count():
        with trouble:
            for job_id in hurry():
                _log.info("job %s, requeued, starts as soon as it fits", job_id)
            for name in wake() if turn % _TURNS_PER_WAKE == 0 else ():
                _log.info("%s answers again", name)
        time.sleep(_EVERY_SECONDS)
