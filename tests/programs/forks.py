"""Forks right after collectives, as a DataLoader with workers does at each epoch's start."""

from __future__ import annotations

import os
import sys
import time

import torch

from dto.runtime.transport import open_transport
from dto.runtime.world import read_world


def ends(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.001)
    return True


def main() -> None:
    transport = open_transport("gloo", read_world(os.environ), torch.device("cpu"), os.environ)
    for number in range(100):
        handles = [transport.all_reduce_async(torch.ones(1000)) for _ in range(5)]
        for handle in handles:
            handle.wait()
        transport.all_gather_object(number)
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            children.append(pid)
        if not all([ends(pid, 5.0) for pid in children]):
            sys.exit(f"a child of fork number {number} hung")
    transport.barrier()


if __name__ == "__main__":
    main()
