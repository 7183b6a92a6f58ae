"""Ranks of a benchmark, started here as dto starts a job's; what rank 0 printed is the answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dto.runtime.transport import Transport

_SECONDS = 3600


def run_ranks(
    benchmark: str, backend: str, world: int, variables: Mapping[str, str], *, threads: int = 1
) -> Any:
    """Run `python -m benchmarks.<benchmark>` as every rank; return the JSON of rank 0's last line.

    Raises:
        RuntimeError: a rank failed; its own words are on stderr.
    """
    from dto.launch.environment import Job, Seating, rank_environment
    from dto.launch.key_value import KeyValueServer

    server = KeyValueServer("127.0.0.1")
    server.allow("127.0.0.1")
    port, ranks = _free_port(), []
    job = Job("", 0, 0, backend, None)
    for rank in range(world):
        seat = Seating(
            rank, world, rank, world, 0, 1, "here", "127.0.0.1", port, port,
            "127.0.0.1", server.port, "lo", [], threads,
        )  # fmt: skip
        env = {**os.environ, **rank_environment(seat, job, {}), **variables}
        command = [sys.executable, "-m", f"benchmarks.{benchmark}"]
        ranks.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    try:
        outputs = [process.communicate(timeout=_SECONDS)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
        server.close()
    if any(process.returncode for process in ranks):
        raise RuntimeError(f"a rank of {benchmark} ({backend}) failed: see its output above")
    return json.loads(outputs[0].splitlines()[-1])


def answer(measure: Callable[[Transport], Any]) -> None:
    """As a rank that `run_ranks` started: measure, print what rank 0 found, leave together."""
    import torch

    from dto.runtime.transport import join_world

    transport = join_world(torch.device("cpu"))
    told = measure(transport)
    if transport.rank == 0:
        print(json.dumps(told), flush=True)
    transport.barrier()
    transport.close()


def has_horovod() -> bool:
    command = [sys.executable, "-c", "import horovod.torch"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
