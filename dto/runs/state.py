"""A run's state, derived from what was written and what the scheduler says; stored nowhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from dto.runs.files import read_gist, read_json
from dto.runs.paths import Run
from dto.runs.processes import boot_id, process_started
from dto.runs.requests import pending

HEARTBEAT_LOST_SECONDS = 30.0
_WAITING_WORDS = {
    *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
}
_ASLEEP_WORDS = {"SUSPENDED", "STOPPED"}
_ALIVE_WORDS = {"RUNNING", "COMPLETING", "STAGE_OUT", *_ASLEEP_WORDS}


class State(str, Enum):
    """The life of a run; S2's six states, and what a cluster adds to them."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    RECOVERING = "RECOVERING"
    PREEMPTED = "PREEMPTED"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_alive(self) -> bool:
        """Something runs, or will by itself."""
        return self in _ALIVE


_ALIVE = {State.QUEUED, State.STARTING, State.RUNNING, State.RECOVERING, State.PREEMPTED}


@dataclass(frozen=True)
class Status:
    """What `dto status` shows. Times are seconds since the epoch, ages are seconds."""

    id: str
    state: State
    text: str
    submission: int
    attempt: int
    job_id: str | None = None
    scheduler: str | None = None
    log: str | None = None
    world: int | None = None
    nodes: tuple[str, ...] = ()
    generation: int = 0
    step: int | None = None
    total_steps: int | None = None
    epoch: int | None = None
    loss: float | None = None
    commit: str | None = None
    heartbeat_age: float | None = None
    exit_code: int | None = None
    verdict: dict[str, Any] | None = None
    resumable: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": self.state.value, "nodes": list(self.nodes)}


@dataclass(frozen=True)
class Facts:
    """Everything that a state is derived from, gathered so that the derivation is pure."""

    submission: int
    attempt: int
    submitted: float
    """When the newest submission was handed over."""
    rows: Sequence[Mapping[str, Any]]
    """The newest attempt's journal: its states, and its last rows."""
    result: Mapping[str, Any] | None
    requests: Sequence[Mapping[str, Any]]
    scheduler_word: str | None
    """SLURM's state of the job; "" where SLURM no longer knows it; None where nobody was asked."""
    coordinator_alive: bool | None
    """Whether the process that wrote the journal lives; None where it is on another host."""
    commit: str | None
    is_batch: bool = False
    """SLURM holds the job: only SLURM can say that it waits no more."""


def derive(facts: Facts, now: float) -> tuple[State, str]:
    """Return the state and one line that says why. Pure: same facts, same state."""
    newest_started = _submission_of(facts.rows) == facts.submission
    if facts.scheduler_word and facts.scheduler_word in _WAITING_WORDS:
        if newest_started and facts.result is not None:
            return State.PREEMPTED, f"stopped and requeued ({facts.result.get('text', '')})"
        if newest_started:
            return State.PREEMPTED, "the node was lost or taken; SLURM queued the job again"
        return State.QUEUED, "waiting in the queue"
    if facts.result is not None and newest_started:
        return _from_result(facts)
    if not newest_started:
        return _before_start(facts, now)
    return _without_result(facts, now)


def _from_result(facts: Facts) -> tuple[State, str]:
    assert facts.result is not None
    text = str(facts.result.get("text", ""))
    if facts.result.get("then") == "requeue":
        gone = facts.scheduler_word is not None and facts.scheduler_word not in _ALIVE_WORDS
        left = facts.coordinator_alive is False and not facts.is_batch
        was_taken = _asked_since(facts, _last_time(facts.rows)) & {"stop", "cancel"}
        if gone or (facts.scheduler_word is None and (left or was_taken)):
            return _taken_out(facts, text.partition("; it goes on by itself")[0])
        return State.PREEMPTED, text
    return State(facts.result.get("state", "FAILED")), text


def _taken_out(facts: Facts, text: str) -> tuple[State, str]:
    """It was to go on by itself and does not."""
    asked = _asked_since(facts, _last_time(facts.rows))
    if "cancel" in asked:
        return State.CANCELLED, f"{text}; cancelled before its next attempt"
    if "stop" in asked:
        return State.STOPPED, f"{text}; taken out of the queue before its next attempt"
    return State.STOPPED, f"{text}; the next attempt never came: resume it"


def _asked_since(facts: Facts, begin: float) -> set[str]:
    return {str(row.get("kind")) for row in facts.requests if float(row.get("t", 0)) >= begin}


def _before_start(facts: Facts, now: float) -> tuple[State, str]:
    asked = _asked_since(facts, facts.submitted)
    if facts.scheduler_word in _ALIVE_WORDS:
        return State.STARTING, "the job has its nodes; its coordinator is starting"
    if "cancel" in asked:
        return State.CANCELLED, "cancelled before it started"
    if "stop" in asked:
        return State.STOPPED, "stopped before it started"
    if facts.scheduler_word is None and facts.is_batch:
        return State.QUEUED, "not started when last heard of; SLURM could not be asked"
    silent = now - facts.submitted > HEARTBEAT_LOST_SECONDS
    if facts.scheduler_word == "" or (facts.scheduler_word is None and silent):
        return State.FAILED, "it ended before its coordinator wrote anything: see its log"
    if facts.scheduler_word:
        word = facts.scheduler_word
        return State.FAILED, f"SLURM says {word} and nothing was started: see its log"
    return State.STARTING, "its coordinator is starting"


def _without_result(facts: Facts, now: float) -> tuple[State, str]:
    """The newest attempt has begun and has no verdict: alive, or killed without a word."""
    asked = _asked_since(facts, facts.submitted)
    age = now - _last_time(facts.rows)
    nobody_knows = facts.coordinator_alive is None and facts.scheduler_word is None
    gone = facts.scheduler_word is not None and facts.scheduler_word not in _ALIVE_WORDS
    silent = nobody_knows and age > HEARTBEAT_LOST_SECONDS
    if gone or facts.coordinator_alive is False or silent:
        if "cancel" in asked:
            return State.CANCELLED, "cancelled"
        word = f"; SLURM says {facts.scheduler_word}" if facts.scheduler_word else ""
        text = "the node died, or somebody ended the whole job"
        return State.FAILED, f"it was killed without a verdict{word}: {text}"
    latest = [row for row in facts.rows if row.get("kind") == "state"][-1:]
    word = str(latest[0]["state"]) if latest else "STARTING"
    known = {"STARTING": State.STARTING, "RECOVERING": State.RECOVERING}
    text = "saving, then stopping" if word == "STOPPING" else ""
    if facts.scheduler_word in _ASLEEP_WORDS:
        text = "suspended by SLURM"
    elif age > HEARTBEAT_LOST_SECONDS:
        text = f"no heartbeat for {age:.0f} s"
    return known.get(word, State.RUNNING), text


def read_status(run: Run, scheduler_word: str | None, now: float) -> Status:
    """Gather the facts of a run and derive its status.

    `scheduler_word` is SLURM's state of the newest job, "" where SLURM does not know the job any
    more, None for a local run or where SLURM could not be asked.
    """
    facts = _gather(run, scheduler_word)
    state, text = derive(facts, now)
    job = read_json(run.submission(facts.submission) / "job.json") or {}
    latest = _newest(facts.rows, "state")
    metric = _newest(facts.rows, "metric")
    ended = facts.result if facts.result is not None and not state.is_alive else {}
    return Status(
        id=run.id,
        state=state,
        text=text,
        submission=facts.submission,
        attempt=facts.attempt,
        job_id=job.get("job_id") or latest.get("job_id"),
        scheduler=job.get("scheduler"),
        log=job.get("log"),
        world=latest.get("world"),
        nodes=tuple(latest.get("nodes") or ()),
        generation=latest.get("generation", 0),
        step=metric.get("step"),
        total_steps=metric.get("total_steps"),
        epoch=metric.get("epoch"),
        loss=(metric.get("values") or {}).get("loss"),
        commit=facts.commit,
        heartbeat_age=round(now - _last_time(facts.rows), 1) if facts.rows else None,
        exit_code=ended.get("exit_code"),
        verdict=ended.get("verdict"),
        resumable=state in (State.STOPPED, State.FAILED, State.CANCELLED),
    )


def _gather(run: Run, scheduler_word: str | None) -> Facts:
    """Read what the newest attempt and the newest submission left."""
    submission, attempt = max(run.submissions(), default=0), max(run.attempts(), default=0)
    job = read_json(run.submission(submission) / "job.json") or _unfinished(run, submission)
    rows = read_gist(run.attempt(attempt).journal, "state") if attempt else []
    return Facts(
        submission=submission,
        attempt=attempt,
        submitted=float(job.get("submitted", 0.0)),
        rows=rows,
        result=read_json(run.attempt(attempt).result_file) if attempt else None,
        requests=pending(run),
        scheduler_word=scheduler_word,
        coordinator_alive=_coordinator_alive(rows),
        commit=next(reversed(committed(run.checkpoints)), None),
        is_batch=job.get("scheduler") == "slurm",
    )


def committed(checkpoints: Path) -> list[str]:
    """Return the names of committed checkpoints, oldest first (a manifest is the commit)."""
    try:
        names = [entry.name for entry in os.scandir(checkpoints) if entry.name.startswith("step-")]
    except FileNotFoundError:
        return []
    keyed = [
        (key, name)
        for name in names
        if (key := commit_key(name)) is not None and (checkpoints / name / "manifest.json").exists()
    ]
    return [name for _, name in sorted(keyed)]


def commit_key(name: str) -> tuple[int, int, int] | None:
    """Return (attempt, generation, step) of `step-<n>.a<k>g<g>`, the order of commits."""
    step, _, tail = name.removeprefix("step-").partition(".a")
    attempt, _, generation = tail.partition("g")
    if not (step.isdigit() and attempt.isdigit() and generation.isdigit()):
        return None
    return int(attempt), int(generation), int(step)


def _newest(rows: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """Return the last row of a kind, or nothing; of metrics, rank 0's."""
    mine = (row for row in reversed(rows) if row.get("kind") == kind and not row.get("rank"))
    return next(mine, {})


def _unfinished(run: Run, submission: int) -> dict[str, float]:
    """Stand in for the record of a submission that is being written, or was never finished."""
    try:
        return {"submitted": run.submission(submission).stat().st_mtime}
    except FileNotFoundError:
        return {}


def _submission_of(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Return which submission an attempt belongs to, from the first row of its journal."""
    begun = next((row for row in rows if "submission" in row), None)
    return int(begun["submission"]) if begun else None


def _last_time(rows: Sequence[Mapping[str, Any]]) -> float:
    return max((float(row.get("t", 0.0)) for row in rows[-50:]), default=0.0)


def _coordinator_alive(rows: Sequence[Mapping[str, Any]]) -> bool | None:
    """Ask this host's /proc, if the journal was written here; a pid alone may be reused."""
    begun = next((row for row in reversed(rows) if row.get("pid")), None)
    if (
        begun is None
        or begun.get("host") != socket.gethostname()
        or begun.get("boot_id") != boot_id()
    ):
        return None
    return process_started(int(begun["pid"])) == int(begun.get("started") or 0)
