"""`dto.DataParallel` used alone, on living ranks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dto
from dto.errors import ConfigError
from tests.processes.pool import pool

pytestmark = [pytest.mark.process, pytest.mark.ranks]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_gradients_that_were_gathered_silently_can_be_averaged_later(world: int) -> None:
    for rank in pool("gloo").run("data_parallel.synchronises_later", world):
        assert rank["same"] and rank["samples"] == 4.0 * world
        assert rank["norm"] == pytest.approx(1.0) and rank["clipped"] == pytest.approx(0.5, 1e-5)


def test_without_a_transport_it_joins_the_world_of_the_launcher() -> None:
    assert pool("gloo").run("data_parallel.joins_by_itself", 4) == [[1.0, 1.5, 4.0]] * 4


def frozen() -> nn.Module:
    return nn.Linear(2, 2).requires_grad_(False)


def spread() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device=torch.device("meta")))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.ReLU(), "has no parameters"),
        (frozen(), "thaw one"),
        (spread(), "lie on cpu and meta: move all to one"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(model: nn.Module, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dto.DataParallel(model)


def test_buffers_of_rank_0_come_with_the_gradients() -> None:
    for found, broadcasts in pool("gloo").run("data_parallel.follows_the_buffers_of_rank_0", 3):
        assert found == [1, 1, 3, 3, 1, 1]  # in between, each rank accumulates by itself
        assert not broadcasts


@pytest.mark.parametrize("world", [1, 2, 3])
def test_torchs_own_under_the_same_interface_trains_alike(world: int) -> None:
    for (difference,) in pool("gloo").run("data_parallel.trains_like_torch", world):
        assert difference <= 1e-10


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="use one of dto, torch"):
        dto.DataParallel(nn.Linear(1, 1), backend="mpi")
