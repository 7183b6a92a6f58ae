"""What a user may choose about a session, and how a session ends a script."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dto.runtime.recipe import Recipe
from dto.runtime.transport import Transport

logger = logging.getLogger("dto")
STOPPED = 85
"""Exit code of a rank that saved and left because it was asked to (design: contract 4)."""


class Stopped(SystemExit):
    """Ends the script on every rank at the same step, after the checkpoint."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


@dataclass(frozen=True)
class Settings:
    """What a user may choose, in `DistributedTrainer(...)` or `dto.distribute(...)`."""

    backend: str = "auto"
    device: str = "auto"
    checkpoint_every: str | int | None = None
    global_batch_size: int | None = None
    seed: int | None = None
    run_dir: str | Path | None = None
    keep_last: int = 3
    recipe: Recipe = field(default_factory=Recipe)
    transport: Transport | None = None
    """The ranks to train on; the world that this process was started into if not given."""


def choose_device(device: str, local_rank: int) -> torch.device:
    """`auto` is this rank's own GPU where there is one for it, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # where the scheduler shows each rank only its own GPU, that one is number 0
    chosen = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(chosen)
    return chosen


def show_log(speaks: bool) -> None:
    """Rank 0 shows its lines, unless the script has its own idea of logging."""
    if speaks and not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    if speaks and logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
