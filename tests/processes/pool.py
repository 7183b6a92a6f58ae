"""Ranks that stay alive: cases are functions that they run one after another, on 1 to 4 of them.

A case is `tests/ranks/<module>.py: function(transport, **arguments) -> JSON`. A rank that fails
says so and stays; one that hangs costs the pool, which is started anew for the next case.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dto.launch.key_value import KeyValueServer
from tests.processes.ranks import environments

SECONDS = 60.0
_START_SECONDS = 180.0
_PROGRAM = Path(__file__).parents[1] / "ranks" / "living.py"


class RankFailed(AssertionError):
    """A case ended in an error, on the ranks that the message names."""


class Pool:
    """Four living ranks of Gloo, or as many of Horovod as a case needs (it has no subgroups)."""

    def __init__(self, backend: str, size: int) -> None:
        self.backend, self.size = backend, size
        self._server: KeyValueServer | None = None
        self._ranks: list[subprocess.Popen[str]] = []
        self._answers: list[queue.Queue[str]] = []

    def run(
        self, case: str, world: int, *, seconds: float = SECONDS, **arguments: Any
    ) -> list[Any]:
        """What `case` ("module.function") returned on each of the first `world` ranks."""
        outcomes = self.outcomes(case, world, seconds=seconds, **arguments)
        failed = {rank: o["error"] for rank, o in enumerate(outcomes) if "error" in o}
        if failed:
            raise RankFailed("\n".join(f"rank {rank}: {text}" for rank, text in failed.items()))
        return [outcome["value"] for outcome in outcomes]

    def outcomes(
        self, case: str, world: int, *, seconds: float = SECONDS, **arguments: Any
    ) -> list[dict[str, Any]]:
        """As `run`, with {"error": text, "kind": class} of ranks that failed."""
        for idle in set(_horovod) - {self}:  # they would poll
            idle.stop()
        if not self._ranks:
            self._start()
        line = json.dumps({"case": case, "world": world, "arguments": arguments})
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write(line + "\n")
            rank.stdin.flush()
        try:
            texts = [answers.get(timeout=seconds) for answers in self._answers]
        except queue.Empty:
            for rank in self._ranks:  # each says on stderr where it stands
                rank.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            self.stop()
            raise RankFailed(f"{case} on {world} ranks did not end within {seconds:g} s") from None
        if not all(texts):
            self.stop()
            raise RankFailed(f"{case} on {world} ranks: a rank ended")
        return [json.loads(text) for text in texts[:world]]

    def _start(self) -> None:
        self._server = KeyValueServer("127.0.0.1")
        self._server.allow("127.0.0.1")
        for env in environments(self.backend, self.size, self._server.port):
            rank = subprocess.Popen(
                [sys.executable, str(_PROGRAM)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            answers: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_read, args=(rank, answers), daemon=True).start()
            self._ranks.append(rank)
            self._answers.append(answers)
        try:
            words = [answers.get(timeout=_START_SECONDS) for answers in self._answers]
        except queue.Empty:
            words = []
        if words != ["ready\n"] * self.size:
            self.stop()  # so that the next case begins anew
            raise RankFailed(f"a rank of {self.backend} did not start")

    def stop(self) -> None:
        for rank in self._ranks:
            rank.kill()
        for rank in self._ranks:
            rank.wait()
            for pipe in (rank.stdin, rank.stdout):
                with contextlib.suppress(OSError):  # what could not be written is lost anyway
                    pipe.close()  # type: ignore[union-attr]
        if self._server is not None:
            self._server.close()
        self._server, self._ranks, self._answers = None, [], []


def _read(rank: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert rank.stdout is not None
    for line in rank.stdout:
        if line.startswith("answer "):
            answers.put(line.removeprefix("answer "))
    answers.put("")


_horovod: list[Pool] = []


@functools.cache
def pool(backend: str, world: int = 4) -> Pool:
    """The pool whose first `world` ranks can be used; it ends with the tests."""
    if backend != "horovod" and world != 4:
        return pool(backend)
    found = Pool(backend, world)
    if backend == "horovod":
        _horovod.append(found)
    atexit.register(found.stop)
    return found
