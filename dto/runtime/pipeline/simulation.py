"""Plays a schedule without tensors: finds deadlocks, measures the bubble, draws the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dto.runtime.pipeline.schedule import Action, Kind, Plan, make_plan

GRADIENTS_AHEAD = 2
"""How many gradients a stage has under way before it waits for the oldest to be taken."""
_DURATION = {Kind.FORWARD: 1, Kind.BACKWARD: 2}  # backward makes two products for forward's one
_Message = tuple[Kind, int, int]  # what for, micro-batch, part of the model that it goes to


@dataclass(frozen=True)
class Done:
    """One action with the time at which it ran."""

    stage: int
    action: Action
    begin: int
    end: int


class _Player:
    """Stages take turns; each goes on until its next message is not there yet."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stages = len(plan)
        self.parts = self.stages * (1 + max(a.chunk for stage in plan for a in stage))
        self.next = [0] * self.stages
        self.clock = [0] * self.stages
        self.sent: dict[_Message, int] = {}
        self.untaken: list[set[_Message]] = [set() for _ in plan]  # gradients, by sender
        self.done: list[Done] = []

    def part(self, stage: int, action: Action) -> int:
        return action.chunk * self.stages + stage

    def needed(self, stage: int, action: Action) -> _Message | None:
        """What must have come before this action, except from the stage itself."""
        part = self.part(stage, action)
        end = 0 if action.kind is Kind.FORWARD else self.parts - 1
        return None if part == end else (action.kind, action.micro_batch, part)

    def blocked_by(self, stage: int) -> str:
        """What the stage waits for; nothing where it can go on."""
        if len(self.untaken[stage]) > GRADIENTS_AHEAD:
            return "a gradient of its own to be taken"
        action = self.plan[stage][self.next[stage]]
        message = self.needed(stage, action)
        if message is None or message in self.sent:
            return ""
        what = "activation" if action.kind is Kind.FORWARD else "gradient"
        return f"the {what} of micro-batch {action.micro_batch} for chunk {action.chunk}"

    def run(self, stage: int) -> None:
        action = self.plan[stage][self.next[stage]]
        message = self.needed(stage, action)
        arrived = 0
        if message is not None:
            arrived = self.sent.pop(message)
            for untaken in self.untaken:
                untaken.discard(message)
        begin = max(self.clock[stage], arrived)
        end = begin + _DURATION[action.kind]
        self.done.append(Done(stage, action, begin, end))
        self.clock[stage] = end
        self.next[stage] += 1
        self._send(stage, action, end)

    def _send(self, stage: int, action: Action, time: int) -> None:
        forward = action.kind is Kind.FORWARD
        target = self.part(stage, action) + (1 if forward else -1)
        if 0 <= target < self.parts:
            message = (action.kind, action.micro_batch, target)
            self.sent[message] = time
            if not forward:
                self.untaken[stage].add(message)

    def left(self) -> Iterator[int]:
        return (stage for stage in range(self.stages) if self.next[stage] < len(self.plan[stage]))

    def play(self) -> None:
        moved = True
        while moved:
            moved = False
            for stage in self.left():
                while self.next[stage] < len(self.plan[stage]) and not self.blocked_by(stage):
                    self.run(stage)
                    moved = True


def find_fault(plan: Plan, micro_batches: int, chunks: int = 1) -> str:
    """What is wrong with a plan, in one line; nothing where it is complete and runs to its end.

    Stages send without waiting and take a message by its name, as the executor does.
    """
    for stage, actions in enumerate(plan):
        wanted = {
            Action(k, m, c) for k in Kind for m in range(micro_batches) for c in range(chunks)
        }
        if set(actions) != wanted or len(actions) != len(wanted):
            return f"stage {stage} does not do every action once"
        for forward in (a for a in actions if a.kind is Kind.FORWARD):
            backward = Action(Kind.BACKWARD, forward.micro_batch, forward.chunk)
            if actions.index(backward) < actions.index(forward):
                return f"stage {stage} goes backward before forward: {backward}"
    player = _Player(plan)
    player.play()
    waits = [f"stage {stage} waits for {player.blocked_by(stage)}" for stage in player.left()]
    return "; ".join(waits)


def play(plan: Plan) -> list[Done]:
    """When each action runs where forward takes 1, backward 2, and a message no time."""
    player = _Player(plan)
    player.play()
    assert not list(player.left()), "a plan that never ends"
    return player.done


def bubble(stages: int, micro_batches: int, schedule: str = "1f1b", chunks: int = 1) -> float:
    """The share of the step in which a stage has nothing to do.

    (p-1)/(m+p-1) for GPipe and 1F1B, (p-1)/(v·m+p-1) interleaved; here it is counted.
    """
    done = play(make_plan(stages, micro_batches, schedule, chunks))
    busy = sum(one.end - one.begin for one in done)
    return 1 - busy / (stages * max(one.end for one in done))


def draw(stages: int, micro_batches: int, schedule: str = "1f1b", chunks: int = 1) -> str:
    """The schedule as text, one line per stage: `F0` forward, `B0` backward, `·` nothing to do.

    Chunks are letters (`F0b`), and what goes on for a second unit of time is `--`.
    """
    done = play(make_plan(stages, micro_batches, schedule, chunks))
    names = [_name(one.action, chunks) for one in done]
    width = max(map(len, names))
    rows = [["·"] * max(one.end for one in done) for _ in range(stages)]
    for one, name in zip(done, names, strict=True):
        rows[one.stage][one.begin : one.end] = [name, *["--"] * (one.end - one.begin - 1)]
    return "\n".join(
        f"stage {stage} | {' '.join(cell.ljust(width) for cell in row)}".rstrip()
        for stage, row in enumerate(rows)
    )


def _name(action: Action, chunks: int) -> str:
    letter = chr(ord("a") + action.chunk) if chunks > 1 else ""
    return f"{action.kind.value}{action.micro_batch}{letter}"
