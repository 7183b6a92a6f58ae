"""The server: takes pushes, steps the masters, and lets workers go on when the rule says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch

from dto.errors import PeerLostError, WorldError
from dto.runtime.control import Control
from dto.runtime.parameter_server.masters import Masters
from dto.runtime.parameter_server.rules import Clocks, Wish


class Trouble(IntEnum):
    """Why a server cannot go on."""

    NONE = 0
    LOST = 1
    LATE = 2
    BROKEN = 3


@dataclass(frozen=True)
class Fault:
    """What ended the training of all; `rank` is the one to look at."""

    trouble: Trouble
    rank: int

    def error(self, seconds: float) -> WorldError:
        return PeerLostError(
            {
                Trouble.LOST: f"rank {self.rank} went away while the parameter server needed it",
                Trouble.LATE: f"rank {self.rank} pushed no step within {seconds:g} s, and the"
                " others wait for it",
                Trouble.BROKEN: f"the parameter server on rank {self.rank} failed: its own error"
                " says why",
            }[self.trouble]
        )


class Refused(Exception):
    """The answer to a worker's call is a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True)
class Push:
    """A worker's gradients of one step: the share's, in a row."""

    gradients: torch.Tensor
    used: Sequence[bool]
    """By parameter of the share, whether this worker has a gradient for it."""
    control: Control


@dataclass(frozen=True)
class Pulled:
    """What a worker goes on with."""

    parameters: torch.Tensor
    """The share's, in a row: a copy that is the worker's own."""
    control: Control
    ahead: int
    """Steps that the worker has pushed more than the slowest, at this moment."""


class Server:
    """One server's state. Workers call it from threads of their own; one lock guards it all."""

    def __init__(self, rank: int, masters: Masters, clocks: Clocks, averages: bool) -> None:
        self.rank, self.masters, self.clocks = rank, masters, clocks
        self._averages = averages
        self._changed = threading.Condition()
        self._fault: Fault | None = None
        self._round: dict[int, Push] = {}  # synchronous: pushes of the step under way, by worker
        self._mean: Push | None = None  # their mean, until it is stepped with
        self._norm = 0.0
        workers = len(clocks.steps)
        self._sums = [Control() for _ in range(workers)]
        self._stop, self._save = Wish(), Wish()

    def push(self, worker: int, push: Push) -> None:
        """Take a worker's gradients; never waits for other workers."""
        with self._changed:
            self._refuse_if_faulty()
            self.clocks.tick(worker)
            if push.control.stop:
                self._stop.ask(self.clocks)
            if push.control.save:
                self._save.ask(self.clocks)
            if self._averages:
                self._round[worker] = push
                self._close_round()
            else:
                self.masters.step(push.gradients, push.used)
                self._count([push])
            self._changed.notify_all()

    def squared_norm(self, worker: int, seconds: float) -> float:
        """Of the mean gradient of this share; waits until all have pushed."""
        with self._changed:
            self._wait(worker, seconds)
            return self._norm

    def pull(self, worker: int, seconds: float, scale: float = 1.0) -> Pulled:
        """Wait until the worker may go on, and hand it the parameters.

        Synchronous: the first to come has the optimizer step with the mean, times `scale`.

        Raises:
            Refused: a rank was lost, or the slowest did not push within `seconds`.
        """
        with self._changed:
            self._wait(worker, seconds)
            if self._mean is not None:
                mean, self._mean = self._mean, None
                self.masters.step(mean.gradients, mean.used, scale)
            sums, self._sums[worker] = self._sums[worker], Control()
            steps = self.clocks.steps[worker]
            stop, save = self._stop.is_due(steps), self._save.is_due(steps)
            control = Control(float(stop), sums.samples, float(save), sums.loss)
            return Pulled(self.masters.flat.clone(), control, self.clocks.ahead(worker))

    def leave(self, worker: int) -> None:
        """The worker pushes no more; the others go on without it."""
        with self._changed:
            self.clocks.leave(worker)
            self._close_round()
            self._changed.notify_all()

    def give_up(self, trouble: Trouble, rank: int) -> None:
        """Let everybody who waits, or comes later, know; the first cause stays."""
        with self._changed:
            self._fault = self._fault or Fault(trouble, rank)
            self._changed.notify_all()

    def wait_for_the_others(self, seconds: float) -> None:
        """Return when all have left; `seconds` is how long nothing may happen."""
        with self._changed:
            before: object = None
            while self.clocks.present:
                self._refuse_if_faulty()
                now = (list(self.clocks.steps), set(self.clocks.gone))
                if now == before:
                    raise Refused(Fault(Trouble.LATE, self.clocks.laggards[0]))
                before = now
                self._wait_for(self._has_moved_since(now), seconds)

    def _has_moved_since(self, state: tuple[list[int], set[int]]) -> Callable[[], bool]:
        return lambda: (self.clocks.steps, self.clocks.gone) != state

    def _wait(self, worker: int, seconds: float) -> None:
        if not self._wait_for(lambda: self.clocks.may_go_on(worker), seconds):
            self._fault = Fault(Trouble.LATE, self.clocks.laggards[0])
            self._changed.notify_all()
        self._refuse_if_faulty()

    def _wait_for(self, is_so: Callable[[], bool], seconds: float) -> bool:
        return self._changed.wait_for(lambda: self._fault is not None or is_so(), seconds)

    def _refuse_if_faulty(self) -> None:
        if self._fault is not None:
            raise Refused(self._fault)

    def _close_round(self) -> None:
        """When all who are here have pushed: the mean, added up in the order of ranks."""
        if not self._round or any(worker not in self._round for worker in self.clocks.present):
            return
        pushes = [self._round[worker] for worker in sorted(self._round)]
        self._round = {}
        total = pushes[0].gradients.clone()
        for push in pushes[1:]:
            total.add_(push.gradients)
        total.div_(len(pushes))
        used = [any(flags) for flags in zip(*(push.used for push in pushes), strict=True)]
        self._mean = Push(total, used, Control())
        self._norm = float(total.double().square().sum())
        self._count(pushes)

    def _count(self, pushes: Sequence[Push]) -> None:
        """Samples and losses of these pushes, for each worker's next answer."""
        for sums in self._sums:
            sums.samples += sum(push.control.samples for push in pushes)
            sums.loss += sum(float(push.control.loss) for push in pushes)
