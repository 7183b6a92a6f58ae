"""What data parallelism is made of: passengers of a sum, and a watch on the model."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from dto.runtime.riders import MOST_VALUES, Riders
from dto.runtime.watch import Watch

CPU = torch.device("cpu")


def buffers(sign: int) -> list[torch.Tensor]:
    return [
        torch.tensor([True, False, sign > 0]),
        torch.tensor([1.5 * sign, -0.0, 1e-40]),
        torch.tensor(sign * (2**40 + 1)),
        torch.tensor([[0.1], [math.inf]], dtype=torch.float64) * sign,
        torch.full((2, 2), float(sign)).t(),
        torch.tensor([sign * 0.25], dtype=torch.bfloat16),
    ]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_rank_gets_the_buffers_of_rank_0_bit_by_bit(world: int) -> None:
    everyones = [buffers(1 if rank == 0 else -rank) for rank in range(world)]
    riders = [Riders(mine, CPU, rank == 0) for rank, mine in enumerate(everyones)]
    places = [torch.empty(rider.numel) for rider in riders]
    for rider, place in zip(riders, places, strict=True):
        rider.write(place)
    total = functools.reduce(torch.add, places)
    for rider, mine in zip(riders, everyones, strict=True):
        rider.read(total.clone())
        for have, want in zip(mine, buffers(1), strict=True):
            assert have.reshape(-1).view(torch.uint8).equal(want.reshape(-1).view(torch.uint8))


def test_what_rides_is_no_change_that_autograd_minds() -> None:
    running = torch.ones(2)
    rider = Riders([running], CPU, is_source=False)
    version = running._version
    rider.read(torch.zeros(rider.numel))
    assert running.tolist() == [0.0, 0.0] and running._version == version


def test_big_buffers_do_not_ride() -> None:
    assert Riders([], CPU, True).are_all
    big = Riders([torch.zeros(MOST_VALUES + 1)], CPU, True)
    elsewhere = Riders([torch.zeros(1)], torch.device("meta"), True)
    for none in (big, elsewhere):
        assert not none.are_all and none.numel == 0


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Linear(2, 2)))


def test_a_watch_is_silent_while_training_goes_on() -> None:
    ours = model()
    watch = Watch(ours)
    ours(torch.randn(3, 2)).sum().backward()
    torch.optim.SGD(ours.parameters(), lr=0.1).step()
    ours.eval()
    assert not watch.has_changed()


def test_a_watch_notices_other_parts() -> None:
    def freeze(m: nn.Sequential) -> None:
        m[0].weight.requires_grad_(False)

    def replace(m: nn.Sequential) -> None:
        m[0].weight = nn.Parameter(torch.zeros(2, 2))

    def add(m: nn.Sequential) -> None:
        m[2].append(nn.ReLU())

    def buffer(m: nn.Sequential) -> None:
        m[1].running_mean = torch.zeros(2)

    def new_buffer(m: nn.Sequential) -> None:
        m[2].register_buffer("seen", torch.zeros(1))

    for change in (freeze, replace, add, buffer, new_buffer):
        ours = model()
        watch = Watch(ours)
        change(ours)
        assert watch.has_changed(), change.__name__
        watch.look()
        assert not watch.has_changed()
