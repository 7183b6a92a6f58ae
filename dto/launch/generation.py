"""One generation of ranks, from their start until the last has ended: who is left, who must go."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from dto.launch.hub import Hub, Member
from dto.launch.stopping import Order, grace
from dto.runs.verdict import Ending

LAST_WORDS_SECONDS = 3.0
"""How long the others have to say what they saw after one has failed."""
_WITHOUT_SAVING_SECONDS = 10.0
"""What is kept of the time limit for the verdict when nothing can be saved."""


class Generation:
    """Bookkeeping and the decisions that follow from it; agents carry them out."""

    def __init__(self, number: int, hub: Hub, ranks_per_node: int) -> None:
        self.number = number
        self.endings: dict[int, Ending] = {}
        self.lost_nodes: list[str] = []
        self.order: Order | None = None
        self.is_started = False
        self.is_cooperative = False
        """Some rank listens for the stop word."""
        self.was_terminated = False
        """No rank listens, and SIGTERM was sent to those that handle it."""
        self._hub = hub
        self._seats = {
            member.node: range(index * ranks_per_node, (index + 1) * ranks_per_node)
            for index, member in enumerate(hub.ordered())
        }
        self._answers_due: set[str] = set()
        self._caught = False
        self._deadline: float | None = None
        self._budget = 0.0
        self._kill_at = math.inf
        self._was_killed = False

    @property
    def is_over(self) -> bool:
        if not self.is_started:
            return bool(self.lost_nodes) or self.order is not None
        gone = [rank for node in self.lost_nodes for rank in self._seats[node]]
        expected = {rank for ranks in self._seats.values() for rank in ranks}
        return expected <= {*self.endings, *gone}

    def on_message(self, member: Member, message: Mapping[str, Any]) -> Ending | None:
        """Take what an agent says; an ending is also returned, for the journal."""
        if message.get("generation") != self.number:
            return None
        if message["type"] == "rank-hello":
            self.is_cooperative = self.is_cooperative or bool(message["cooperative"])
        elif message["type"] == "terminated":
            self._on_terminated(member, list(message["caught"]))
        elif message["type"] == "ended":
            ending = Ending(**{k: v for k, v in message.items() if k != "type"})
            self._on_ended(ending)
            return ending
        return None

    def on_lost(self, member: Member) -> None:
        self.lost_nodes.append(member.node)
        self._answers_due.discard(member.node)
        self._kill_within(LAST_WORDS_SECONDS)

    def on_order(self, order: Order, deadline: float | None, budget: float) -> bool:
        """Pass a stop on to the ranks; return whether the order was news.

        A second one counts only if it is to kill, or if a person now wants no further attempt.
        """
        if self.order is not None and not _is_more(order, self.order):
            return False
        was_stopping, self.order = self.order is not None, order
        if order.kill:
            self._kill_within(0.0)
        elif not was_stopping:
            self._begin_stop(order, deadline, budget)
        elif self.was_terminated and not self._caught:  # nothing will be saved
            self._kill_within(0.0)
        return True

    def _begin_stop(self, order: Order, deadline: float | None, budget: float) -> None:
        self._deadline, self._budget = deadline, budget
        if self.is_cooperative:
            seconds = grace(time.time(), deadline, budget)
            self._hub.broadcast("stop", reason=order.reason, deadline=time.time() + seconds)
            self._kill_within(seconds)
        else:
            self.was_terminated = True
            self._answers_due = set(self._hub.members)
            self._hub.broadcast("terminate")

    def on_tick(self) -> None:
        if time.monotonic() >= self._kill_at and not self._was_killed:
            self._was_killed = True
            self._hub.broadcast("kill")

    def _on_ended(self, ending: Ending) -> None:
        self.endings[ending.rank] = ending
        if ending.is_abnormal and self.order is None:
            self._kill_within(LAST_WORDS_SECONDS)
        elif ending.code == 85:  # it saved; whoever does not follow never will
            self._kill_within(grace(time.time(), self._deadline, self._budget))

    def _on_terminated(self, member: Member, caught: list[int]) -> None:
        self._answers_due.discard(member.node)
        self._caught = self._caught or bool(caught)
        if self._answers_due or self.order is None:
            return
        if self._caught:
            self._kill_within(grace(time.time(), self._deadline, self._budget))
        elif self.order.source == "person":
            self._kill_within(0.0)
        elif self._deadline is not None:  # nothing will be saved: use the time to the end
            left = self._deadline - time.time() - _WITHOUT_SAVING_SECONDS
            self._kill_within(max(left, 0.0))
        else:  # SLURM's own SIGKILL comes in KillWait, 30 s by default
            self._kill_within(2 * _WITHOUT_SAVING_SECONDS)

    def _kill_within(self, seconds: float) -> None:
        self._kill_at = min(self._kill_at, time.monotonic() + seconds)
        self.on_tick()


def _is_more(order: Order, than: Order) -> bool:
    return order.kill > than.kill or (order.source == "person") > (than.source == "person")
