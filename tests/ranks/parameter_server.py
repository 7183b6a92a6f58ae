"""Cases of the parameter server: what ranks compute, and how far they run ahead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dto.runtime.control import Control
from dto.runtime.parameter_server import ParameterServer
from dto.runtime.transport import Transport

_TAG = 77
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
}


class Net(nn.Module):
    """Odd sizes, a parameter that is never used, and one that is used in every third step."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)
        self.never, self.rarely = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor, step: int = 0) -> torch.Tensor:
        y: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return y + self.rarely if step % 3 == 0 else y


def batch_of(step: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(samples, 5, generator=generator, dtype=torch.float64)
    return x, torch.sin(x[:, :3])


def own_rows(step: int, rank: int, size: int) -> slice:
    """Uneven parts of eleven samples; rank 0 has none in every fifth step."""
    edges = [0, *(3 + 8 * n // max(size - 1, 1) for n in range(size))]
    if step % 5 == 4 and size > 1:
        edges[1] = 0
    edges[-1] = 11
    return slice(edges[rank], edges[rank + 1])


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, server: ParameterServer | None, steps: int
) -> list[float]:
    """Two micro-batches a step, clipped; with a server this rank's part, else the whole batch."""
    norms = []
    rank, size = (server.transport.rank, server.transport.size) if server else (0, 1)
    for step in range(steps):
        x, y = batch_of(step, 11)
        rows = own_rows(step, rank, size)
        if server is None:
            optimizer.zero_grad()
        else:
            server.set_weight(rows.stop - rows.start, 11)
            x, y = (x[rows], y[rows]) if rows.stop > rows.start else (x[:1], y[:1])
        for _ in range(2):
            (((model(x, step) - y) ** 2).mean() / 2).backward()
        if step % 2:
            if server is not None:
                norms.append(float(server.clip_grad_norm(0.1)))
            else:
                norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
        optimizer.step()
    return norms


def values_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def synchronous(transport: Transport) -> dict[str, Any]:
    """By optimizer and number of servers: distance to one process, in parameters and norms."""
    found: dict[str, Any] = {}
    for name, make in OPTIMIZERS.items():
        alone = Net().double()
        norms = train(alone, make(alone.parameters()), None, 20)
        for servers in sorted({1, transport.size - 1, transport.size} - {0}):
            digests = []
            for _ in range(2 if name == "sgd" and servers == 1 else 1):
                model = Net(seed=transport.rank).double()
                optimizer = make(model.parameters())
                server = ParameterServer(model, optimizer, transport=transport, servers=servers)
                got = train(model, optimizer, server, 20)
                server.close()
                off = (values_of(model) - values_of(alone)).abs().max()
                digests.append(hashlib.sha256(values_of(model).numpy().tobytes()).hexdigest())
            apart = max(abs(a - b) for a, b in zip(got, norms, strict=True))
            found[f"{name} {servers}"] = [float(off), apart, digests]
    return found


def free_running(transport: Transport) -> dict[str, Any]:
    """Asynchronous ranks learn, each at its own pace; the others go on when one is through."""
    found: dict[str, Any] = {}
    for mode, staleness in (("asynchronous", None), ("bounded", 3)):
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        server = ParameterServer(
            model, optimizer, mode, staleness=staleness, transport=transport, servers=2
        )
        x, y = (value.float() for value in batch_of(0, 64))
        with server.whole():
            before = float(((model(x) - y) ** 2).mean())
        for step in range(30 + 10 * transport.rank):
            rows = batch_of(step * 10 + transport.rank, 16)
            inputs, targets = (value.float() for value in rows)
            ((model(inputs) - targets) ** 2).mean().backward()
            optimizer.step()
        server.close()
        after = float(((model(x) - y) ** 2).mean())
        digest = hashlib.sha256(values_of(model).detach().numpy().tobytes()).hexdigest()
        found[mode] = [before, after, digest]
    return found


def a_slow_rank(transport: Transport, mode: str, staleness: int | None, lead: int) -> list[int]:
    """How far each step found this rank ahead. Rank 1 steps only when rank 0 is `lead` ahead.

    Rank 0 tells it so by a message after every step; so no clock is needed.
    """
    steps = 12
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    server = ParameterServer(
        model, optimizer, mode, staleness=staleness, transport=transport, timeout_seconds=30
    )
    found, told, heard, word = [], [], 0, torch.zeros(1)

    def hear(count: int) -> int:
        for _ in range(count - heard if transport.rank == 1 else 0):
            transport.receive_async(word, 0, _TAG).wait(30)  # type: ignore[attr-defined]
        return count

    for step in range(steps):
        heard = hear(min(step + lead, steps))
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        found.append(server.ahead)
        if transport.rank == 0:
            told.append(transport.send_async(word, 1, _TAG))  # type: ignore[attr-defined]
    hear(steps)
    for message in told:
        message.wait(30)
    server.close()
    return found


def wishes(transport: Transport, mode: str, staleness: int | None) -> dict[str, Any]:
    """After which of its steps each rank was told to save, and to stop."""
    asked = Control()
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    server = ParameterServer(
        model, optimizer, mode, staleness=staleness, transport=transport, outgoing=lambda: asked
    )
    found: dict[str, Any] = {"save": [], "stop": [], "samples": 0.0}
    for step in range(1, 200):
        is_asking = transport.rank == transport.size - 1
        asked = Control(float(is_asking and step >= 9), 2.0, float(is_asking and step == 4), 1.0)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        control = server.take_control()
        assert control is not None and server.take_control() is None
        found["samples"] += control.samples
        if control.save:
            found["save"].append(step)
        if control.stop:
            found["stop"].append(step)
            break
    server.close()
    return found


def keeps_its_settings(transport: Transport) -> list[Any]:
    """A scheduler's learning rate, the state's place, the masters, and a state that is loaded."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    server = ParameterServer(model, optimizer, transport=transport)
    for _ in range(2):  # 1 + 0.5 * 1.5
        model(-torch.ones(1, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    state = optimizer.state_dict()
    kept = [float(entry["momentum_buffer"].sum()) for entry in state["state"].values()]
    after_two = float(model.weight.detach()[0, 0])
    for entry in state["state"].values():
        entry["momentum_buffer"].zero_()
    optimizer.load_state_dict(state)
    transport.barrier()  # the other rank has its parameters, too
    for master in server.masters().values():
        master.zero_()
    server.reload()
    model(-torch.ones(1, 2)).sum().backward()
    optimizer.step()  # 0.25 * 1
    server.close()
    return [after_two, kept, list(server.masters()), float(model.weight.detach()[0, 0])]


def refused(transport: Transport, **settings: Any) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ParameterServer(model, optimizer, transport=transport, **settings)
