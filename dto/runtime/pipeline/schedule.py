"""Who computes what, and when: pipeline schedules as a pure function of three numbers.

GPipe: Huang et al., NeurIPS 2019. 1F1B: Narayanan et al., "PipeDream" (SOSP 2019), flushed after
each batch. Interleaved: Narayanan et al., "Efficient Large-Scale Language Model Training" (SC
2021); there each stage holds several chunks, and chunk c of stage s is part c · stages + s of the
model. In every schedule a stage takes its micro-batches backward in the order 0, 1, 2, …; so
gradients add up in one order, and all schedules give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dto.errors import ConfigError

SCHEDULES = ("gpipe", "1f1b", "interleaved")


class Kind(Enum):
    """What is done with a micro-batch."""

    FORWARD = "F"
    BACKWARD = "B"


@dataclass(frozen=True)
class Action:
    """One micro-batch goes once through one chunk of a stage."""

    kind: Kind
    micro_batch: int
    chunk: int = 0


Plan = tuple[tuple[Action, ...], ...]
"""By stage, its actions in order."""


def make_plan(stages: int, micro_batches: int, schedule: str = "1f1b", chunks: int = 1) -> Plan:
    """Return every stage's actions. Pure: the same numbers give the same plan.

    Raises:
        ConfigError: there is no such plan; it says which there are.
    """
    _require_possible(stages, micro_batches, schedule, chunks)
    if schedule == "gpipe":
        forward, backward = _orders(stages, micro_batches, chunks)
        return tuple((*forward, *backward) for _ in range(stages))
    if schedule == "1f1b":
        warm_ups = [stages - 1 - stage for stage in range(stages)]
    else:
        first = (chunks - 1) * stages
        warm_ups = [first + 2 * (stages - 1 - stage) for stage in range(stages)]
    return tuple(_one_forward_one_backward(w, stages, micro_batches, chunks) for w in warm_ups)


def peak_in_flight(actions: tuple[Action, ...]) -> int:
    """The most micro-batches that a stage has forward but not yet backward: its activations."""
    held = peak = 0
    for action in actions:
        held += 1 if action.kind is Kind.FORWARD else -1
        peak = max(peak, held)
    return peak


def forward_order(stages: int, micro_batches: int, chunks: int = 1) -> list[Action]:
    """Every stage's actions where nothing goes backward."""
    return _orders(stages, micro_batches, chunks)[0]


def _orders(stages: int, micro_batches: int, chunks: int) -> tuple[list[Action], list[Action]]:
    """Forwards and backwards of a stage: `stages` micro-batches through one chunk after the other.

    With one chunk that is 0, 1, 2, …
    """
    forward, backward = [], []
    for begin in range(0, micro_batches, stages):
        group = range(begin, min(begin + stages, micro_batches))
        for chunk in range(chunks):
            forward += [Action(Kind.FORWARD, number, chunk) for number in group]
            backward += [Action(Kind.BACKWARD, number, chunks - 1 - chunk) for number in group]
    return forward, backward


def _one_forward_one_backward(
    warm_up: int, stages: int, micro_batches: int, chunks: int
) -> tuple[Action, ...]:
    """Some forwards to fill the pipeline, then one of each, then the backwards that are left."""
    forward, backward = _orders(stages, micro_batches, chunks)
    warm_up = min(warm_up, len(forward))
    actions = forward[:warm_up]
    for ahead, behind in zip(forward[warm_up:], backward, strict=False):
        actions += [ahead, behind]
    return (*actions, *backward[len(forward) - warm_up :])


def _require_possible(stages: int, micro_batches: int, schedule: str, chunks: int) -> None:
    if schedule not in SCHEDULES:
        raise ConfigError(f"there is no schedule {schedule!r}: use one of {', '.join(SCHEDULES)}")
    if min(stages, micro_batches) < 1:
        raise ConfigError(
            f"a pipeline needs at least 1 stage and 1 micro-batch, got {stages} and {micro_batches}"
        )
    if schedule != "interleaved":
        if chunks != 1:
            raise ConfigError(
                f"schedule {schedule} has 1 chunk per stage, got {chunks}: use 1, or interleaved"
            )
        return
    if chunks < 2:
        raise ConfigError(f"schedule interleaved needs chunks of 2 or more, got {chunks}: or 1f1b")
    if micro_batches % stages:
        legal = micro_batches - micro_batches % stages
        others = f"{legal} or {legal + stages}" if legal else f"{stages}"
        raise ConfigError(
            f"schedule interleaved needs micro_batches that {stages} stages divide, got"
            f" {micro_batches}: use {others}, or schedule 1f1b"
        )
