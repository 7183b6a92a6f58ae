"""What a user calls: every rank is a worker, and the first ones also serve."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.sharded import Held, Part
from dto.errors import ConfigError, UsageError, WorldError
from dto.runtime.control import Control
from dto.runtime.parameter_server.desk import Desk, RemoteDesk, open_lane
from dto.runtime.parameter_server.masters import Masters
from dto.runtime.parameter_server.rules import Clocks, staleness_of
from dto.runtime.parameter_server.server import Push, Server
from dto.runtime.parameter_server.service import Service
from dto.runtime.parameter_server.share import make_shares, trained_by
from dto.runtime.sameness import describe_model, require_same
from dto.runtime.transport import Messenger, Transport, broadcast_all, join_world

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 300.0


class ParameterServer:
    """Trains a model by pushing gradients to servers and pulling parameters from them.

    Every rank makes it with the same model and optimizer. After backward, `optimizer.step()`
    pushes this rank's gradients and pulls the parameters to go on with; then gradients are None.
    The first `servers` ranks each keep a share of the true parameters and their optimizer state,
    in memory beside their own copy of the model, and serve them from threads. A rank sends and
    receives S bytes for each step, S being those of the parameters; a server n - 1 times its
    share, in and out.

    Modes:
        synchronous: one step of the optimizer with the mean of all ranks' gradients; equal to
            data parallelism and, with `set_weight`, to one process on the whole batch.
        asynchronous: each push is a step of its own at once; nobody waits, and no two runs are
            alike. A round of all ranks is n steps with smaller batches: take a learning rate n
            times lower, and little momentum, to which delays add (Mitliagkas et al., 2016).
        bounded: asynchronous, but a rank waits while it is more than `staleness` steps ahead of
            the slowest.

    Args:
        model: of one floating point type; it starts as rank 0 has it. Buffers stay each rank's
            own until `whole`.
        optimizer: any of torch.optim that needs no closure.
        timeout_seconds: how long a rank waits for others before it is an error.
        outgoing: what this rank wants told to all with its next step; see `take_control`.

    Raises:
        ConfigError: settings that do not go together, or a transport that cannot send.
    """

    name = "ps"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        mode: str = "synchronous",
        *,
        staleness: int | None = None,
        servers: int = 1,
        transport: Transport | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        outgoing: Callable[[], Control] = Control,
    ) -> None:
        bound = staleness_of(mode, staleness)
        self._owned = transport is None
        self.transport = transport = transport or join_world(torch.device("cpu"))
        _check(transport, servers, timeout_seconds)
        self.model, self.optimizer, self.mode = model, optimizer, mode
        self.weight, self.ahead = 1.0, 0
        self._seconds, self._outgoing = timeout_seconds, outgoing
        self._control: Control | None = None
        self._scale: float | None = None  # set while a push waits to be stepped with
        self._closed = False
        trained = trained_by(model, optimizer)
        lines = [f"mode {mode}, staleness {staleness}, servers {servers}"]
        require_same(transport, "another parameter server", lines + describe_model(model))
        broadcast_all(transport, [v.detach() for v in (*model.parameters(), *model.buffers())])
        self._shares = make_shares(trained, servers)
        self._used = [False] * len(trained)
        self._names = {id(p): name for name, p in model.named_parameters()}
        own = self._shares[transport.rank].parameters if transport.rank < servers else []
        self._masters = Masters(optimizer, own)
        self._service: Service | None = None
        self._desks = self._open_desks(servers, bound)
        self._hooks: list[Any] = [
            p.register_hook(self._arrival_hook(n))  # type: ignore[no-untyped-call]
            for n, p in enumerate(trained)
        ]
        optimizer.register_step_pre_hook(self._before_step)
        atexit.register(self._leave_at_exit)

    def _open_desks(self, servers: int, bound: int | None) -> list[Desk]:
        """Start to serve, if this rank does; then one desk for each server, by its number."""
        rank, size, seconds = self.transport.rank, self.transport.size, self._seconds
        lane = open_lane(self.transport)
        if rank < servers:
            clocks = Clocks(size, bound)
            server = Server(rank, self._masters, clocks, averages=self.mode == "synchronous")
            self._service = Service(lane, server, seconds)
        desks: list[Desk] = []
        for share in self._shares:
            if lane is None or share.server == rank:
                assert self._service is not None
                desks.append(self._service.desk)
            else:
                count, flat = len(share.parameters), share.incoming
                desks.append(RemoteDesk(lane, share.server, count, flat, seconds))
        return desks

    # a step

    def set_weight(self, own: int, total: int) -> None:
        """Announce a batch: this rank has `own` of its `total` samples.

        Gradients are scaled as they arrive, by own · n / total, so that accumulating is a sum. A
        rank with none takes part in the step, and adds nothing.
        """
        self.weight = own * self.transport.size / total if total else 0.0

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is sent before the optimizer steps: backward passes just accumulate."""
        return contextlib.nullcontext()

    def synchronise(self) -> None:
        """Gradients go out with the optimizer's step."""

    def clip_grad_norm(self, max_norm: float) -> torch.Tensor:
        """Limit the norm of the gradient that the optimizer will step with; the norm before.

        Synchronous: of the mean over all ranks, which all call this. Else of this rank's own.
        """
        if self.mode != "synchronous":
            mine = [p for share in self._shares for p in share.parameters]
            return nn.utils.clip_grad_norm_(mine, max_norm)
        self._push()
        norm = sum(desk.squared_norm() for desk in self._desks) ** 0.5
        self._scale = min(1.0, max_norm / (norm + 1e-6))
        return torch.tensor(norm, dtype=self._shares[0].gradients.dtype)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if len(args) > 1 or kwargs.get("closure") is not None:
            raise UsageError("a parameter server takes no closure: call backward, then step()")
        if self._closed:
            raise UsageError("this parameter server was closed: its optimizer steps no more")
        if self._scale is None:
            self._push()
        scale, self._scale = self._scale, None
        assert scale is not None
        self._control = self._pull(scale)

    def _push(self) -> None:
        if self._scale is not None:
            raise UsageError("gradients were clipped already: step the optimizer first")
        control = self._outgoing()
        for share, desk in zip(self._shares, self._desks, strict=True):
            used = share.take_gradients(self._used)
            desk.push(Push(share.gradients, used, control))
        self._used = [False] * len(self._used)
        self._scale = 1.0

    def _pull(self, scale: float) -> Control:
        for desk in self._desks:
            desk.ask_to_pull(scale)
        pulled = [desk.pulled() for desk in self._desks]
        for share, found in zip(self._shares, pulled, strict=True):
            share.put_parameters(found.parameters)
        self.ahead = max(found.ahead for found in pulled)
        return pulled[0].control

    def _arrival_hook(self, number: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def arrived(gradient: torch.Tensor) -> torch.Tensor:
            if self.weight == 0.0:
                return torch.zeros_like(gradient)
            self._used[number] = True
            return gradient if self.weight == 1.0 else gradient * self.weight

        return arrived

    def take_control(self) -> Control | None:
        """What came with the last step; None if there was none since.

        Samples and losses are sums over the pushes since this rank's last step. A stop or a save
        that any rank asked for is told to all ranks after one and the same step of theirs.
        """
        control, self._control = self._control, None
        return control

    # all together

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every rank's model is as the servers have it; all ranks enter together.

        Buffers are rank 0's. Enter it between steps: to evaluate, or to save the model.
        """
        self.reload()
        self.broadcast_buffers()
        yield

    def reload(self) -> None:
        """Pull again, with nobody's push under way; every rank calls this."""
        self.transport.barrier()
        self._pull(1.0)
        self.transport.barrier()

    def broadcast_buffers(self) -> None:
        """Give every rank the buffers of rank 0, such as BatchNorm's running means."""
        broadcast_all(self.transport, [value.detach() for value in self.model.buffers()])

    def masters(self) -> dict[str, torch.Tensor]:
        """The parameters that this rank serves, by their names in the model."""
        if self._service is None:
            return {}
        named = [self._names[id(p)] for p in self._shares[self.transport.rank].parameters]
        return dict(zip(named, self._masters.tensors, strict=True))

    def held(self) -> Sequence[Held]:
        """The masters that this rank serves, whole; enter `whole` before they are read."""
        return [
            Held(master, (Part(name, tuple(master.shape), 0, master.numel()),))
            for name, master in self.masters().items()
        ]

    def close(self) -> None:
        """Leave; returns when all have left, with the final parameters on every rank.

        Raises:
            WorldError: a rank was lost, or made no step for `timeout_seconds`.
        """
        if self._closed:
            return
        self._leave()
        for share in self._shares:
            is_mine = share.server == self.transport.rank
            flat = self._masters.flat if is_mine else share.incoming
            self.transport.broadcast(flat, share.server)
            share.put_parameters(flat)
        self.broadcast_buffers()
        if self._owned:
            self.transport.close()

    def _leave(self) -> None:
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        for desk in self._desks:
            desk.leave()
        if self._service is not None:
            self._service.desk.wait_for_the_others()
        atexit.unregister(self._leave_at_exit)

    def _leave_at_exit(self) -> None:
        """A script that ends well need not close; one that fails must be missed by the others."""
        has_failed = hasattr(sys, "last_value")
        try:
            if not has_failed and not self._closed:
                self._leave()
        except WorldError as error:  # an error where somebody is lost; here all is done
            has_failed = True
            log.warning("the parameter server ends early: %s", error)
        if self._service is not None and (has_failed or self._closed):
            self._service.break_off()
        if self._owned and not has_failed:
            self.transport.close()


def _check(transport: Transport, servers: int, seconds: float) -> None:
    if transport.size > 1 and not (transport.name == "gloo" and isinstance(transport, Messenger)):
        raise ConfigError(
            f"a parameter server sends messages from rank to rank, which {transport.name} cannot:"
            " use --backend gloo"
        )
    if not 1 <= servers <= transport.size:
        raise ConfigError(
            f"servers must be from 1 to {transport.size}, the number of ranks, not {servers}"
        )
    if not seconds > 0:
        raise ConfigError(f"timeout_seconds must be more than 0, not {seconds}")
