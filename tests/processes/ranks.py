"""Ranks of a program, started as the agent would, without an agent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dto.launch.environment import Job, Seating, rank_environment
from dto.launch.key_value import KeyValueServer


def environments(backend: str, world: int, kv_port: int) -> list[dict[str, str]]:
    """What the agent would set, by rank."""
    port = _free_port()
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


def run_ranks(
    backend: str, world: int, *arguments: str | Path, codes: Sequence[int] | None = None
) -> list[str]:
    """Run `python ARGUMENTS` as every rank; what each printed. `codes` are their exit statuses."""
    server = KeyValueServer("127.0.0.1")
    server.allow("127.0.0.1")
    command = [sys.executable, *map(str, arguments)]
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
    expected = [0] * world if codes is None else list(codes)
    assert [rank.returncode for rank in ranks] == expected, [err for _, err in outputs]
    return [out for out, _ in outputs]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
