"""How a worker talks to a server: by function calls on one rank, by messages between two.

A worker's request is a row of float64 (what it wants, then numbers), and after it, where it is a
push, the gradients. The answer is a row of float64, and after it the parameters where they were
asked for. Two ranks may serve each other, so requests and answers have tags of their own.
`service.py` has the other end.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

import torch

from dto.errors import PeerLostError, WorldError
from dto.runtime.control import Control
from dto.runtime.parameter_server.server import Fault, Pulled, Push, Refused, Server, Trouble
from dto.runtime.transport import Message, Messenger, Transport

_FIRST_TAG, _NOBODY = 0xD8000, 0x10000
REQUEST_NUMBERS, ANSWER_NUMBERS = 5, 8
_GRACE = 5.0  # seconds that a server's word on who is late may take
_lanes = itertools.count()
T = TypeVar("T")


@dataclass(frozen=True)
class Lane:
    """The messages of one parameter server; every one that a process makes has its own tags."""

    messenger: Messenger
    request: int
    answer: int

    def break_off(self) -> None:
        """Close this rank's links: Gloo does that when a message comes too late, as none can here.

        Threads that wait for messages end, and the others learn that this rank is lost.
        """
        peer = (self.messenger.rank + 1) % self.messenger.size
        with contextlib.suppress(RuntimeError):
            self.messenger.receive_async(torch.empty(1), peer, self.request + _NOBODY).wait(0.001)


def open_lane(transport: Transport) -> Lane | None:
    """A lane that no rank has used yet; None for a world of one. Every rank calls this."""
    if transport.size == 1:
        return None
    number = max(transport.all_gather_object(next(_lanes)))
    while next(_lanes) <= number:
        pass
    assert isinstance(transport, Messenger)
    return Lane(transport, _FIRST_TAG + 2 * number, _FIRST_TAG + 2 * number + 1)


class Ask(IntEnum):
    """What a worker wants."""

    PUSH = 0  # take my gradients; there is no answer
    NORM = 1  # tell the squared norm of the mean gradient
    PULL = 2  # give me the parameters
    LEAVE = 3  # nothing more will come; there is no answer


class Desk(Protocol):
    """One server, as a worker sees it. Its errors are WorldErrors that name a rank."""

    def push(self, push: Push) -> None:
        """Hand in gradients, which must not change until the next pull has ended."""

    def squared_norm(self) -> float:
        """Of the mean gradient, once all have pushed."""

    def ask_to_pull(self, scale: float) -> None:
        """Begin a pull, so that several servers work at once."""

    def pulled(self) -> Pulled:
        """End it."""

    def leave(self) -> None:
        """Say that no more will come."""


class LocalDesk:
    """The server is on this rank."""

    def __init__(self, server: Server, seconds: float) -> None:
        self._server, self._worker, self._seconds = server, server.rank, seconds
        self._scale = 1.0

    def push(self, push: Push) -> None:
        self._told(lambda: self._server.push(self._worker, push))

    def squared_norm(self) -> float:
        return self._told(lambda: self._server.squared_norm(self._worker, self._seconds))

    def ask_to_pull(self, scale: float) -> None:
        self._scale = scale

    def pulled(self) -> Pulled:
        return self._told(lambda: self._server.pull(self._worker, self._seconds, self._scale))

    def leave(self) -> None:
        self._server.leave(self._worker)

    def wait_for_the_others(self) -> None:
        """Return when no worker is left."""
        self._told(lambda: self._server.wait_for_the_others(self._seconds))

    def _told(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Refused as refused:
            raise refused.fault.error(self._seconds) from None


class RemoteDesk:
    """The server is on another rank; its share has `count` parameters, which come in at `flat`."""

    def __init__(
        self, lane: Lane, server: int, count: int, flat: torch.Tensor, seconds: float
    ) -> None:
        self._lane, self._server, self._seconds = lane, server, seconds
        self._count, self._parameters = count, flat
        self._answer = torch.zeros(ANSWER_NUMBERS, dtype=torch.float64)
        self._going: list[tuple[Message, torch.Tensor]] = []

    def push(self, push: Push) -> None:
        control = push.control
        numbers = [control.stop, control.samples, control.save, float(control.loss)]
        self._send(row_of([Ask.PUSH, *numbers, *push.used]))
        if push.gradients.numel():
            self._send(push.gradients)

    def squared_norm(self) -> float:
        self._send(self._plain(Ask.NORM))
        self._receive_answer()
        return float(self._answer[2])

    def ask_to_pull(self, scale: float) -> None:
        self._send(self._plain(Ask.PULL, scale))

    def pulled(self) -> Pulled:
        self._receive_answer()
        if self._parameters.numel():
            self._receive(self._parameters)
        for message, _ in self._going:
            self._wait(message)
        self._going = []
        ahead, *control = self._answer.tolist()[3:]
        return Pulled(self._parameters, Control(*control), int(ahead))

    def leave(self) -> None:
        self._send(self._plain(Ask.LEAVE))
        for message, _ in self._going:
            self._wait(message)

    def _plain(self, what: Ask, number: float = 0.0) -> torch.Tensor:
        """A request without gradients, of the length that all have."""
        return row_of([what, number, *[0] * (REQUEST_NUMBERS - 2 + self._count)])

    def _send(self, tensor: torch.Tensor) -> None:
        try:
            message = self._lane.messenger.send_async(tensor, self._server, self._lane.request)
        except RuntimeError as error:
            raise self._lost(error) from error
        self._going.append((message, tensor))

    def _receive_answer(self) -> None:
        self._receive(self._answer)
        trouble, rank = self._answer[:2].tolist()
        if trouble:
            raise Fault(Trouble(int(trouble)), int(rank)).error(self._seconds)

    def _receive(self, tensor: torch.Tensor) -> None:
        try:
            message = self._lane.messenger.receive_async(tensor, self._server, self._lane.answer)
        except RuntimeError as error:
            raise self._lost(error) from error
        self._wait(message)

    def _wait(self, message: Message) -> None:
        try:
            message.wait(self._seconds + _GRACE)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> WorldError:
        is_late = "Timed out" in str(error)
        how = f"did not answer within {self._seconds + _GRACE:g} s" if is_late else "went away"
        reason = str(error).splitlines()[0]
        return PeerLostError(f"rank {self._server}, a parameter server, {how}: {reason}")


def row_of(numbers: Sequence[float]) -> torch.Tensor:
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
