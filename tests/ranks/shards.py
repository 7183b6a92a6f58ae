"""Cases of checkpoints in parts."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dto import DistributedTrainer
from dto.errors import CheckpointError
from dto.runtime.transport import Transport
from tests.ranks.matrix import Net, data, optimizer_for


def trained(transport: Transport, run_dir: str, **options: Any) -> DistributedTrainer:
    trainer = DistributedTrainer(
        transport=transport, run_dir=run_dir, verbose=False, checkpoint_interval=0, **options
    )
    model = Net(torch.float64)
    loader = DataLoader(data(torch.float64), batch_size=12)
    optimizer = optimizer_for("adamw", model)
    trainer.fit(model, loader, optimizer, nn.functional.cross_entropy, 1)
    return trainer


def fail_to_write_on_one(transport: Transport, run_dir: str) -> list[Any]:
    """Rank 1 may write no more than 100 bytes a file; then it may again."""
    trainer = trained(transport, run_dir, strategy="zero2")
    session, said = trainer.session, ""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if transport.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        session.save()
    except CheckpointError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    transport.barrier()
    left = sorted(path.name for path in Path(run_dir).glob("step-*"))
    transport.barrier()
    session.save()
    transport.barrier()
    files = sorted(path.name for path in trainer.checkpoint_dir.glob("step-*/*"))
    return [said, left, files]


def go_on_with_another_model(transport: Transport, run_dir: str) -> str:
    """A checkpoint of a net, and then a net with one layer less."""
    trained(transport, run_dir, strategy="zero3").session.save()
    trainer = DistributedTrainer(
        transport=transport, run_dir=run_dir, verbose=False, strategy="zero1"
    )
    model = nn.Sequential(nn.Linear(12, 5)).double()
    optimizer = torch.optim.AdamW(model.parameters())
    loader = DataLoader(data(torch.float64), batch_size=12)
    try:
        trainer.fit(
            model,
            loader,
            optimizer,
            nn.functional.cross_entropy,
            2,
            resume_from_checkpoint="auto",
        )
    except CheckpointError as error:
        return str(error)
    return ""
