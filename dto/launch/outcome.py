"""What an attempt came to, and what happens next. Pure: facts in, result.json out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dto.launch.stopping import Order
from dto.runs.verdict import CHECKPOINTED, Ending, Verdict, classify

CANCELLED_CODE = 130
OUT_OF_TIME_CODE = 124  # as timeout(1) has it
_PORT_TAKEN = ("address already in use", "eaddrinuse", "errno: 98", "errno 98")


@dataclass(frozen=True)
class Ended:
    """How the last generation of an attempt ended."""

    verdict: Verdict
    order: Order | None = None
    was_terminated: bool = False
    """Nobody listened for the stop word."""


@dataclass(frozen=True)
class Outcome:
    """The verdict, the run's state after it, and whether it goes on by itself."""

    state: Literal["COMPLETED", "FAILED", "STOPPED", "CANCELLED", "PREEMPTED"]
    then: Literal["leave", "requeue"]
    verdict: Verdict
    text: str

    @property
    def exit_code(self) -> int:
        return self.verdict.exit_code

    def to_json(self, more: Mapping[str, Any]) -> dict[str, Any]:
        verdict = asdict(self.verdict)
        head = {"state": self.state, "exit_code": self.exit_code, "then": self.then}
        return {**head, "verdict": verdict, **more, "text": self.text}


def judge(
    endings: Sequence[Ending],
    lost_nodes: Sequence[str],
    order: Order | None,
    was_terminated: bool = False,
) -> Ended:
    """Say how a generation ended, with a stop that was asked for in mind."""
    if order is not None and not endings:
        return stopped_before_start(order)
    if order is not None and was_terminated:  # its codes now only say how it takes SIGTERM
        real = [e for e in endings if e.is_abnormal and not e.is_victim and e.code is None]
        if not real and any(e.is_abnormal for e in endings):
            return Ended(_ended_by_us(endings, order), order, was_terminated)
    if order is not None and order.kill and any(e.is_abnormal for e in endings):
        return Ended(_ended_by_us(endings, order), order, was_terminated)
    return Ended(classify(endings, lost_nodes), order, was_terminated)


def stopped_before_start(order: Order) -> Ended:
    return Ended(_ended_by_us([], order), order, was_terminated=True)


def _ended_by_us(endings: Sequence[Ending], order: Order) -> Verdict:
    code = OUT_OF_TIME_CODE if order.source == "deadline" else CANCELLED_CODE
    steps = [e.last_step for e in endings if e.last_step is not None]
    cause = f"ended by {order.reason}"
    return Verdict(False, code, cause, "cancelled", last_step=max(steps, default=None))


def decide(
    ended: Ended,
    may_requeue: bool,
    new_commit: str | None,
    is_progress: bool,
    replaces_nodes: bool = False,
) -> Outcome:
    """Turn the end of an attempt into the run's state.

    A job goes on by itself only if SLURM or the clock stopped it, or it lost a node that SLURM
    `replaces_nodes` for, and only if its checkpoint is further on than the one it began with:
    otherwise it would go round in circles.
    """
    verdict, order = ended.verdict, ended.order
    if verdict.kind == "completed":
        return Outcome("COMPLETED", "leave", verdict, "completed")
    if verdict.kind == "cancelled":
        return _without_saving(ended, new_commit)
    is_wanted = order is None or order.source != "person"
    may_go_on = may_requeue and is_progress and is_wanted
    if verdict.kind == "agent-lost" and replaces_nodes and may_go_on:
        text = f"{verdict.cause}; it goes on by itself from {new_commit}"
        return Outcome("PREEMPTED", "requeue", verdict, text)
    if verdict.kind == "signal" and verdict.exit_code == CANCELLED_CODE:  # not by us
        return Outcome("CANCELLED", "leave", verdict, "ended by SIGINT (Ctrl-C)")
    if verdict.exit_code != CHECKPOINTED or verdict.kind != "stopped":
        return Outcome("FAILED", "leave", verdict, verdict.cause)
    reason = order.reason if order is not None else "its own wish"
    saved = f"stopped by {reason} at {new_commit or 'a step without a checkpoint'}"
    verdict = replace(verdict, cause=saved)
    if order is None or not is_wanted:
        return Outcome("STOPPED", "leave", verdict, saved)
    if not may_requeue:
        return Outcome("STOPPED", "leave", verdict, f"{saved}; it does not requeue itself")
    if not is_progress:
        text = f"{saved}; not requeued, for it made no progress since it began"
        return Outcome("STOPPED", "leave", verdict, text)
    return Outcome("PREEMPTED", "requeue", verdict, f"{saved}; it goes on by itself")


def _without_saving(ended: Ended, new_commit: str | None) -> Outcome:
    assert ended.order is not None
    reason = ended.order.reason
    kept = f"; the last checkpoint is {new_commit}" if new_commit else ""
    if ended.order.kill:
        text = f"cancelled by {reason}{kept}"
    else:
        text = f"ended by {reason} at once: the script does not save on request{kept}"
    state: Literal["FAILED", "CANCELLED"] = "CANCELLED"
    if ended.order.source == "deadline":
        state, text = "FAILED", f"ran out of time: the script does not save on request{kept}"
    return Outcome(state, "leave", replace(ended.verdict, cause=text), text)


def found_port_taken(endings: Sequence[Ending]) -> bool:
    """Somebody took MASTER_PORT between our probe and rank 0: nobody's fault, start anew."""
    first = [e for e in endings if e.rank == 0 and e.is_abnormal]
    return bool(first) and any(words in first[0].message.lower() for words in _PORT_TAKEN)
