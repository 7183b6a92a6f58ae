"""What a rank that serves runs beside its own training: a thread for every other worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch

from dto.runtime.control import Control
from dto.runtime.parameter_server.desk import REQUEST_NUMBERS, Ask, Lane, LocalDesk, row_of
from dto.runtime.parameter_server.server import Push, Refused, Server, Trouble
from dto.runtime.transport import Message

log = logging.getLogger(__name__)

_FOR_EVER = 1e7  # seconds; a process that ends closes its links, so nothing hangs on it
_END_SECONDS = 5.0


class Service:
    """A server at work. `lane` is None in a world of one, which has no other workers."""

    def __init__(self, lane: Lane | None, server: Server, seconds: float) -> None:
        self._lane, self._server = lane, server
        self.desk = LocalDesk(server, seconds)
        size = 1 if lane is None else lane.messenger.size
        self._attendants = [
            Attendant(lane, server, worker, seconds)
            for worker in range(size)
            if lane is not None and worker != server.rank
        ]

    def break_off(self) -> None:
        """End the threads though workers are still there; they will miss this rank.

        A thread that waits for a message while Python shuts down would abort the process.
        """
        self._server.give_up(Trouble.BROKEN, self._server.rank)
        if self._lane is not None:
            self._lane.break_off()
        for attendant in self._attendants:
            attendant.thread.join(_END_SECONDS)


class Attendant:
    """The server's side of a RemoteDesk: a thread that serves one worker until it leaves."""

    def __init__(self, lane: Lane, server: Server, worker: int, seconds: float) -> None:
        self._lane, self._server = lane, server
        self._worker, self._seconds = worker, seconds
        length = REQUEST_NUMBERS + len(server.masters.tensors)
        self._request = torch.zeros(length, dtype=torch.float64)
        self._gradients = torch.empty_like(server.masters.flat)
        name = f"dto-server-of-{worker}"
        self.thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            while self._take_one():
                pass
        except _LinkLost:
            self._server.give_up(Trouble.LOST, self._worker)
        except Exception:  # such as the optimizer's: told here, and every worker is told where
            log.exception("the parameter server failed at a request of rank %d", self._worker)
            self._server.give_up(Trouble.BROKEN, self._server.rank)
            while self._take_one():
                pass

    def _take_one(self) -> bool:
        """Carry one request out; False if it was the last."""
        self._receive(self._request)
        what, *numbers = self._request.tolist()
        if what == Ask.LEAVE:
            self._server.leave(self._worker)
            return False
        try:
            if what == Ask.PUSH:
                if self._gradients.numel():
                    self._receive(self._gradients)
                used = [flag != 0 for flag in numbers[4:]]
                push = Push(self._gradients, used, Control(*numbers[:4]))
                self._server.push(self._worker, push)
            elif what == Ask.NORM:
                norm = self._server.squared_norm(self._worker, self._seconds)
                self._send(row_of([Trouble.NONE, 0, norm, 0, 0, 0, 0, 0]))
            else:
                pulled = self._server.pull(self._worker, self._seconds, scale=numbers[0])
                control = pulled.control
                sums = [control.stop, control.samples, control.save, float(control.loss)]
                self._send(row_of([Trouble.NONE, 0, 0, pulled.ahead, *sums]))
                if pulled.parameters.numel():
                    self._send(pulled.parameters)
        except Refused as refused:
            if what != Ask.PUSH:  # whoever pushes will ask for something next
                fault = refused.fault
                self._send(row_of([fault.trouble, fault.rank, 0, 0, 0, 0, 0, 0]))
        return True

    def _send(self, tensor: torch.Tensor) -> None:
        self._wait(lambda: self._lane.messenger.send_async(tensor, self._worker, self._lane.answer))

    def _receive(self, tensor: torch.Tensor) -> None:
        self._wait(
            lambda: self._lane.messenger.receive_async(tensor, self._worker, self._lane.request)
        )

    def _wait(self, begin: Callable[[], Message]) -> None:
        try:
            begin().wait(_FOR_EVER)
        except RuntimeError as error:
            raise _LinkLost from error


class _LinkLost(Exception):
    """The worker's process is gone."""
