"""Real ranks on Gloo and Horovod compute what one process computes."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from dto.launch.environment import Job, Seating, rank_environment
from dto.launch.key_value import KeyValueServer
from tests.helpers import PROGRAMS

TRANSPORTS = ["gloo", pytest.param("horovod", marks=pytest.mark.horovod)]
WORLDS = [1, 2, 3, 4]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environments(backend: str, world: int, kv_port: int) -> list[dict[str, str]]:
    """What the agent would set, without an agent."""
    port = free_port()
    job = Job(run_dir="", attempt=0, generation=0, backend=backend, deadline=None)
    kept: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1"}
    seats = [
        Seating(
            rank, world, rank, world, 0, 1, "here", "127.0.0.1", port, port, "127.0.0.1", kv_port,
            "lo", [], 1,
        )
        for rank in range(world)
    ]  # fmt: skip
    tables = [rank_environment(seat, job, {}) for seat in seats]
    ours = [{k: v for k, v in t.items() if k not in ("DTO_RUN_DIR", "DTO_SOCKET")} for t in tables]
    return [{**kept, **table} for table in ours]


@functools.cache
def results(backend: str, world: int) -> list[dict[str, Any]]:
    """Run every case once; by rank."""
    server = KeyValueServer("127.0.0.1")
    server.allow("127.0.0.1")
    command = [sys.executable, str(PROGRAMS / "collective.py")]
    ranks = [
        subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for env in environments(backend, world, server.port)
    ]
    try:
        outputs = [rank.communicate(timeout=100) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
        server.close()
    assert [rank.returncode for rank in ranks] == [0] * world, [err for _, err in outputs]
    found: list[dict[str, Any]] = json.loads(outputs[0][0].splitlines()[-1])
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
