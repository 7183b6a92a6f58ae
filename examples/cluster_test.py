"""Say where every rank of a job is, and check and time an all-reduce between them.

    scripts/submit_job.sh -N 2 examples/cluster_test.py        on a cluster
    dto run -n 2 examples/cluster_test.py                      on this machine

The exit code is not 0 where a sum is wrong. `submit_job.sh --backend horovod` checks Horovod.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time

import torch

from dto import DistributedTrainer


def place(trainer: DistributedTrainer) -> str:
    device = torch.device(trainer.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    where = f"rank {trainer.rank} of {trainer.size}, local rank {trainer.local_rank}"
    return f"{where}: {socket.gethostname()}, {device} ({name})"


def is_right(trainer: DistributedTrainer, length: int) -> bool:
    """Sum vectors that differ from rank to rank; each element's sum is known beforehand."""
    ramp = torch.arange(length, dtype=torch.float32, device=trainer.device) % 1000
    total = trainer.allreduce(ramp + trainer.rank, average=False)
    ranks = trainer.size
    expected = ramp * ranks + ranks * (ranks - 1) / 2
    return bool(torch.equal(total, expected))


def seconds_each(trainer: DistributedTrainer, length: int, repeats: int) -> float:
    tensor = torch.ones(length, device=trainer.device)
    trainer.allreduce(tensor)  # connections are made on first use
    synchronize(trainer)
    began = time.perf_counter()
    for _ in range(repeats):
        trainer.allreduce(tensor)
    synchronize(trainer)
    return (time.perf_counter() - began) / repeats


def synchronize(trainer: DistributedTrainer) -> None:
    if torch.device(trainer.device).type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=16.0, help="of the timed all-reduce")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    trainer = DistributedTrainer(verbose=False, checkpoint_interval=0)
    print(place(trainer), flush=True)
    for length in (1, 1023, 65537):
        if not is_right(trainer, length):
            sys.exit(f"rank {trainer.rank}: the all-reduce of {length} numbers is WRONG")
    length = max(1, int(options.megabytes * 1e6 / 4))
    seconds = seconds_each(trainer, length, options.repeats)
    # what one rank sends in a ring, which is what comparisons between networks quote
    bus = 2 * (trainer.size - 1) / trainer.size * length * 4 / seconds / 1e9
    if trainer.rank == 0:
        print(f"all-reduce of {options.megabytes:g} MB: {seconds * 1e3:.2f} ms, {bus:.2f} GB/s bus")
        print(f"all-reduce over {trainer.size} ranks: right", flush=True)


if __name__ == "__main__":
    main()
