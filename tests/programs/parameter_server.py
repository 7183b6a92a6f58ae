"""One of four ranks of test_parameter_server: one comes late, one dies, then a server dies."""

from __future__ import annotations

import json
import os
import sys

import torch
from torch import nn

from dto.errors import WorldError
from dto.runtime.parameter_server import ParameterServer
from dto.runtime.transport import Transport, open_transport
from dto.runtime.world import read_world

world = read_world(os.environ)
transport = open_transport("gloo", world, torch.device("cpu"), os.environ)
RANK = transport.rank
PAIR = transport.split([[0], [1, 2], [3]])  # there rank 1 is number 0, and serves
found: dict[str, str] = {}


def server_over(group: Transport, seconds: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ParameterServer(model, optimizer, transport=group, timeout_seconds=seconds)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def words_of(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> str:
    try:
        for _ in range(steps):
            step(model, optimizer)
    except WorldError as error:
        return str(error)
    return "fine"


def say_and_leave(code: int) -> None:
    print(json.dumps(found), flush=True)
    os._exit(code)


late = server_over(transport, 1.0)
step(*late)
if RANK != 3:
    found["late"] = words_of(*late)
transport.barrier()
if RANK == 3:
    found["late"] = words_of(*late)
transport.barrier()

lost, pair = server_over(transport, 60.0), None
step(*lost)
if RANK in (1, 2):
    pair = server_over(PAIR, 60.0)
    step(*pair)
if RANK == 3:
    say_and_leave(9)
found["worker lost"] = words_of(*lost)
if RANK == 1:
    say_and_leave(9)
if RANK == 2:
    assert pair is not None
    found["server lost"] = words_of(*pair, 2)
found["exit"] = "fine"
print(json.dumps(found), flush=True)
sys.last_value = WorldError("as if it had ended the script")
