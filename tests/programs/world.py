"""Says who it is, over a real all-reduce; `world.py 3 2` makes rank 2 exit 3 instead."""

from __future__ import annotations

import os
import sys
import time

import torch
import torch.distributed as dist


def main() -> None:
    dist.init_process_group("gloo")
    total = torch.ones(1)
    dist.all_reduce(total)
    rank, world = dist.get_rank(), dist.get_world_size()
    node = os.environ.get("SLURMD_NODENAME", "")
    print(f"rank {rank} of {world} on {node} sum {int(total)}", flush=True)
    if sys.argv[1:2] == ["exit"] and rank == int(sys.argv[3]):
        time.sleep(0.5)
        sys.exit(int(sys.argv[2]))
    if sys.argv[1:2] in (["wait"], ["exit"]):
        for _ in range(600):
            time.sleep(0.2)
            dist.all_reduce(total)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
