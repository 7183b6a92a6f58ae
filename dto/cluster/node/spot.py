"""A node that the cloud takes away: no new jobs, those on it save and go on elsewhere, in time.

Amazon says so two minutes ahead (`watch`); Nebius, and every other cloud, only begins to shut the
machine down (`shutdown`), and cuts its power a minute later.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from dto.cluster.node import retire, slurm
from dto.cluster.node.commands import run
from dto.cluster.node.errors import NodeError, UnreachableError
from dto.cluster.node.facts import RUN, Node
from dto.cluster.node.metadata import Metadata, Notice
from dto.cluster.node.trouble import Trouble

_log = logging.getLogger("dto.spot")
LEAVING = RUN / "leaving.json"
"""Is there while the node is being taken away; a boot clears /run."""
REASON = "spot"
_SHUTDOWN_SECONDS = 50.0
_SPARE_SECONDS = 15.0
"""So long before the end a job that has not left by itself is queued again."""
_DOUBT_SECONDS = 600.0
_EVERY_SECONDS = 5.0
_PAUSE_SECONDS = 0.5


def watch(node: Node) -> None:
    """Ask the metadata service for ever; systemd ends us."""
    metadata = Metadata(node.metadata_url)
    left: Notice | None = None
    trouble, is_warned = Trouble(_log.warning, UnreachableError), False
    while True:
        with trouble:
            notice = metadata.notice(time.time())
            if notice is not None and notice != left:
                leave(node, notice.words(), notice.at - time.time())
                left = notice
            if not is_warned and metadata.is_at_risk():
                is_warned = True
                _log.info("the cloud may soon want this machine back; it stays until a notice")
        time.sleep(_EVERY_SECONDS)


def shutdown(node: Node) -> int:
    """Leave if the whole machine goes down; not where a person only restarts our unit."""
    state = run("systemctl", "is-system-running", timeout=10).out.strip()
    if state == "stopping":
        leave(node, "spot notice: it shuts down", _SHUTDOWN_SECONDS)
    else:
        _log.info("the machine stays up (%s): nothing to do", state)
    return 0


def leave(node: Node, why: str, seconds: float) -> str:
    """Drain this node and have its jobs save and leave within so many seconds.

    A SLURM that does not answer is asked again until the time is up.
    """
    _log.info("%s: leaving within %.0f s", why, seconds)
    _note(why, time.time() + seconds)
    departure = _Departure(node.name, why)
    until = time.monotonic() + seconds
    trouble = Trouble(_log.warning, NodeError)
    while True:
        with trouble:
            if departure.step(is_late=time.monotonic() > until - _SPARE_SECONDS):
                return _told(f"{node.name} is empty")
        if time.monotonic() > until:
            why = trouble.words or "jobs stay"
            return _told(f"time is up, and {node.name} is not empty: {why}")
        time.sleep(_PAUSE_SECONDS)


class _Departure:
    """What has been done so far to empty the node; each step looks anew."""

    def __init__(self, name: str, why: str) -> None:
        self._name, self._why = name, why
        self._is_drained = False
        self._asked: set[str] = set()
        self._queued: set[str] = set()

    def step(self, is_late: bool) -> bool:
        """Do what is due; returns whether no job is on the node any more."""
        if not self._is_drained:
            state = slurm.node(self._name)
            if state is None:
                return True
            retire.keep_out(state, self._why)
            self._is_drained = True
        jobs = retire.occupants(self._name)
        new = [job for job in jobs if job.job_id not in self._asked]
        self._asked.update(retire.ask_to_save(new))
        if is_late:
            stuck = [job for job in jobs if job.job_id not in self._queued]
            self._queued.update(retire.queue_again(stuck))
        return not jobs


def _note(why: str, until: float, path: Path = LEAVING) -> None:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"why": why, "until": until}) + "\n")
    os.replace(partial, path)


def is_leaving(path: Path = LEAVING) -> bool:
    """Tell whether the machine is about to go; one that lives on long after that stays."""
    try:
        return time.time() < float(json.loads(path.read_text())["until"]) + _DOUBT_SECONDS
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _told(words: str) -> str:
    _log.info("%s", words)
    return words
