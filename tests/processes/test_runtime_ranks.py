"""Real ranks on Gloo and Horovod compute what one process computes."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from tests.helpers import PROGRAMS
from tests.processes.ranks import run_ranks

TRANSPORTS = ["gloo", pytest.param("horovod", marks=pytest.mark.horovod)]
WORLDS = [1, 2, 3, 4]


@functools.cache
def results(backend: str, world: int) -> list[dict[str, Any]]:
    """Run every case once; by rank."""
    outputs = run_ranks(backend, world, PROGRAMS / "collective.py")
    found: list[dict[str, Any]] = json.loads(outputs[0].splitlines()[-1])
    return found


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("backend", TRANSPORTS)
def test_uneven_batches_equal_one_process(backend: str, world: int) -> None:
    for rank in results(backend, world):
        assert rank["float32"] <= 1e-5
        assert rank["float64"] <= 1e-10
        assert rank["ddp"] <= 1e-14
        assert rank["accumulation"] <= 1e-14
        assert rank["thawed"] <= 1e-14


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("backend", TRANSPORTS)
def test_replicas_stay_bit_equal(backend: str, world: int) -> None:
    for rank in results(backend, world):
        assert rank["replicas"] == 1
        assert rank["buffers"] == 1


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("backend", TRANSPORTS)
def test_a_stop_asked_of_one_rank_reaches_all_with_the_gradients(backend: str, world: int) -> None:
    total = sum(range(1, world + 1))
    assert [r["stop"] for r in results(backend, world)] == [[1.0, total, 2.0 * world]] * world


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("backend", TRANSPORTS)
def test_unused_parameters_keep_no_gradient(backend: str, world: int) -> None:
    for rank in results(backend, world):
        no_gradient_where_unused, shared = rank["unused"]
        assert no_gradient_where_unused
        assert shared == pytest.approx([1 / world] * 2)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("backend", TRANSPORTS)
def test_a_rank_without_samples_adds_nothing(backend: str, world: int) -> None:
    assert all(rank["borrowed"] for rank in results(backend, world))


@pytest.mark.parametrize("backend", TRANSPORTS)
def test_swapping_what_is_frozen_is_followed(backend: str) -> None:
    first, second = (rank["swapped"] for rank in results(backend, 2))
    assert first == second and any(first)


@pytest.mark.parametrize("backend", TRANSPORTS)
def test_different_models_are_refused(backend: str) -> None:
    assert all("rank 1 has another model" in rank["refused"] for rank in results(backend, 2))
