"""Who waits for whom, and who serves what, without ranks; and a world of one."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from dto.errors import ConfigError, UsageError
from dto.runtime.parameter_server import ParameterServer
from dto.runtime.parameter_server.rules import Clocks, Wish, share_out, staleness_of
from dto.runtime.recipe import recipe_of
from dto.runtime.transport.local import LocalTransport


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_nobody_ever_gets_further_ahead_than_the_bound_and_one_step(staleness: int) -> None:
    chance = random.Random(staleness)
    clocks = Clocks(4, staleness)
    for _ in range(500):
        able = [worker for worker in range(4) if clocks.may_go_on(worker)]
        assert able, "somebody can always go on"
        worker = chance.choice(able)
        assert clocks.ahead(worker) <= staleness
        clocks.tick(worker)
        assert clocks.ahead(worker) <= staleness + 1


def test_whoever_left_holds_nobody_up() -> None:
    clocks = Clocks(3, 0)
    clocks.tick(0)
    assert not clocks.may_go_on(0) and clocks.laggards == [1, 2]
    clocks.leave(1)
    clocks.tick(2)
    assert clocks.may_go_on(0) and clocks.may_go_on(2)
    for worker in (0, 2):
        clocks.leave(worker)
    assert clocks.present == [] and clocks.slowest == 1


@pytest.mark.parametrize("staleness", [0, 3, None])
def test_a_wish_is_due_after_one_step_that_all_still_have_before_them(
    staleness: int | None,
) -> None:
    chance = random.Random(1)
    clocks, wish = Clocks(3, staleness), Wish()
    answered = [0] * 3
    due: list[list[int]] = [[], [], []]
    for _ in range(400):
        for worker in range(3):  # answers go out in any order, as late as the next push
            is_waiting = answered[worker] < clocks.steps[worker]
            if is_waiting and clocks.may_go_on(worker) and chance.random() < 0.5:
                answered[worker] = clocks.steps[worker]
                if wish.is_due(answered[worker]):
                    due[worker].append(answered[worker])
        free = [w for w in range(3) if answered[w] == clocks.steps[w] and clocks.steps[w] < 40]
        if free:
            worker = chance.choice(free)
            clocks.tick(worker)
            if worker == 1 and clocks.steps[1] == 10:
                wish.ask(clocks)
    assert due[0] == due[1] == due[2] and len(due[0]) == 1
    assert due[0][0] >= 10 and (staleness != 0 or due[0] == [10])


def test_shares_are_near_to_equal_and_keep_the_order() -> None:
    assert share_out([10, 10, 10, 10], 2) == [[0, 1], [2, 3]]
    assert share_out([100, 1, 1], 3) == [[], [0], [1, 2]]
    assert share_out([5], 1) == [[0]]
    assert share_out([0, 0], 2) == [[0, 1], []]


def test_modes_are_bounds() -> None:
    assert staleness_of("synchronous", None) == 0
    assert staleness_of("asynchronous", None) is None
    assert staleness_of("bounded", 7) == 7


@pytest.mark.parametrize(
    ("mode", "staleness", "words"),
    [
        ("fast", None, "use one of synchronous, asynchronous, bounded"),
        ("bounded", None, "not None"),
        ("bounded", -2, "not -2"),
        ("bounded", True, "not True"),
        ("synchronous", 0, "leave it out"),
    ],
)
def test_bounds_that_cannot_be_meant_are_refused(
    mode: str, staleness: int | None, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        staleness_of(mode, staleness)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_trainer_without_a_server_refuses_its_settings() -> None:
    assert recipe_of({"strategy": "ps", "servers": 2}).layout(2).data == "ps"
    with pytest.raises(ConfigError, match="ddp has none; use strategy='ps'"):
        recipe_of({"strategy": "ddp", "servers": 2}).layout(2)
    with pytest.raises(ConfigError, match="not -1"):
        recipe_of({"strategy": "ps", "server_mode": "bounded", "staleness": -1})


def alone(model: nn.Module, stepped: nn.Module | None = None) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD((stepped or model).parameters(), lr=0.5)
    ParameterServer(model, optimizer, transport=LocalTransport())
    return optimizer


def test_a_world_of_one_needs_no_messages() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = alone(model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight.detach(), before - 0.5)
    assert model.weight.grad is None


def test_a_checkpoint_finds_the_masters_in_the_optimizer() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    held = ParameterServer(model, optimizer, transport=LocalTransport()).held()
    assert [id(one.tensor) for one in held] == [id(p) for p in optimizer.param_groups[0]["params"]]
    assert [(part.name, part.shape, part.end) for one in held for part in one.parts] == [
        ("weight", (1, 2), 2),
        ("bias", (1,), 1),
    ]


def test_a_closed_server_refuses_steps_and_a_closure_is_refused() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    server = ParameterServer(model, optimizer, transport=LocalTransport())
    with pytest.raises(UsageError, match="no closure"):
        optimizer.step(lambda: 0.0)
    server.close()
    server.close()
    with pytest.raises(UsageError, match="was closed"):
        optimizer.step()


def test_models_that_cannot_be_served_are_refused_in_one_line() -> None:
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(ConfigError, match="of one type, not float32, float64"):
        alone(mixed)
    with pytest.raises(ConfigError, match="steps no parameter of this model"):
        alone(nn.Linear(2, 2), nn.Linear(2, 2))
    part = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="2 parameters that are not the model's"):
        alone(part, nn.Sequential(part, nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match="nothing to serve"):
        alone(nn.Linear(2, 2).requires_grad_(False))
