"""What the trainer refuses on ranks, before it has trained anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dto import DistributedTrainer
from dto.errors import DtoError
from dto.runtime.transport import Transport
from tests.ranks.matrix import Net, data, optimizer_for


def fit(transport: Transport, run_dir: str, samples: int = 113, **options: Any) -> list[Any]:
    """The words of the error, and the steps that were taken."""
    trainer = None
    try:
        trainer = DistributedTrainer(
            transport=transport,
            run_dir=run_dir,
            verbose=False,
            global_batch_size=12,
            checkpoint_interval=0,
            **options,
        )
        model = Net(torch.float64)
        loader = DataLoader(data(torch.float64, samples), batch_size=12)
        optimizer = optimizer_for("sgd", model)
        trainer.fit(model, loader, optimizer, nn.functional.cross_entropy, 1)
        second = optimizer_for("sgd", model)
        trainer.fit(model, loader, second, nn.functional.cross_entropy, 1)
    except DtoError as error:
        return [str(error), trainer.session.step if trainer else 0]
    return ["", trainer.session.step]
