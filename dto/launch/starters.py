"""How agents come to life: as children here, or as one srun step over an allocation."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dto.launch.ranks import die_with_parent
from dto.launch.slurm import SlurmJob
from dto.launch.traces import read_tail

AGENT = [sys.executable, "-m", "dto.launch", "agent"]
_LEAVE_SECONDS = 10.0
_POLL_SECONDS = 0.02


class Starter(Protocol):
    """Starts all agents of a run; may be started again after `stop`."""

    def start(self, env: Mapping[str, str]) -> None:
        """Start every agent with `env` on top of our own environment."""

    def problem(self) -> str:
        """Return why agents will never arrive, "" while they may."""

    async def stop(self) -> None:
        """Wait a moment for agents to leave by themselves, then end them."""


class LocalStarter:
    """Agents as children on this machine; more than one stand for nodes, in tests and trials.

    They run in the run directory: `python -m` would otherwise import whatever lies around the
    user's scripts under the names of our modules.
    """

    def __init__(self, nodes: int, directory: Path) -> None:
        self._nodes = nodes
        self._directory = directory
        self._agents: list[subprocess.Popen[bytes]] = []

    def start(self, env: Mapping[str, str]) -> None:
        host, parent = socket.gethostname(), os.getpid()
        for index in range(self._nodes):
            node = host if self._nodes == 1 else f"{host}-{index}"
            named = {"DTO_NODE": node, "DTO_NODE_INDEX": str(index)}
            agent = subprocess.Popen(
                AGENT,
                cwd=self._directory,
                env={**os.environ, **env, **named},
                preexec_fn=lambda: die_with_parent(parent),
            )
            self._agents.append(agent)

    def problem(self) -> str:
        codes = [code for agent in self._agents if (code := agent.poll()) is not None]
        return f"the agent left with {codes[0]}" if codes else ""

    async def stop(self) -> None:
        for agent in self._agents:
            if not await _has_left(agent):
                agent.kill()
                agent.wait()
        self._agents.clear()


class SrunStarter:
    """One task per node in this allocation. What srun itself says is kept for the verdict."""

    def __init__(self, job: SlurmJob, nodes: int, directory: Path) -> None:
        self._job = job
        self._nodes = nodes
        self._directory = directory
        self._errors = directory / "srun.log"
        self._srun: subprocess.Popen[bytes] | None = None

    def start(self, env: Mapping[str, str]) -> None:
        with open(self._errors, "ab") as errors:
            self._srun = subprocess.Popen(
                self.argv(),
                env={**_without_place(os.environ), **env},
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # the terminal's Ctrl-C is for the coordinator
            )

    def argv(self) -> list[str]:
        cpus = self._job.cpus_per_task
        return [
            "srun",
            f"--nodes={self._nodes}",
            f"--ntasks={self._nodes}",
            "--ntasks-per-node=1",
            *([f"--cpus-per-task={cpus}"] if cpus else []),
            "--kill-on-bad-exit=0",
            "--wait=0",
            "--overlap",
            "--export=ALL",
            f"--chdir={self._directory}",
            *AGENT,
        ]

    def problem(self) -> str:
        if self._srun is None or self._srun.poll() is None:
            return ""
        said = read_tail(self._errors).strip().splitlines()
        return f"srun ended: {said[-1]}" if said else f"srun left with {self._srun.returncode}"

    async def stop(self) -> None:
        """srun passes SIGTERM on as the end of the step; SIGKILL would leave the step behind."""
        srun, self._srun = self._srun, None
        if srun is None or await _has_left(srun):
            return
        srun.terminate()
        if not await _has_left(srun):
            srun.kill()
            srun.wait()


def _without_place(env: Mapping[str, str]) -> dict[str, str]:
    """Drop the place of another run's rank, such as the one that `srun` was called from."""
    return {k: v for k, v in env.items() if k not in ("DTO_NODE", "DTO_NODE_INDEX")}


async def _has_left(process: subprocess.Popen[bytes]) -> bool:
    give_up = time.monotonic() + _LEAVE_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        await asyncio.sleep(_POLL_SECONDS)
    return process.poll() is not None
