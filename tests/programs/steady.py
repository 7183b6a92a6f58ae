"""A small training job with everything that a resume can get wrong: dropout, AdamW, uneven batches.

Usage: steady.py OUT [--epochs E] [--every N] [--pace SECONDS] [--hidden H] [--dataset N]
Rank r writes OUT/weights-<r>.txt (sha256 of all parameters) and appends one line a step to
OUT/steps.txt (rank 0: the global step and the samples of that global batch).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dto import DistributedTrainer


class Paced(nn.Module):
    """A loss that takes its time, so that there is a moment to be killed in."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return nn.functional.mse_loss(outputs, targets)


class Numbered(TensorDataset):
    """Notes which samples were read: what was lost or repeated shows there."""

    def __init__(self, seen: Path, *tensors: torch.Tensor) -> None:
        super().__init__(*tensors)
        self.seen = seen

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        with self.seen.open("a") as file:
            file.write(f"{index}\n")
        return super().__getitem__(index)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--every", default="3steps")
    parser.add_argument("--pace", type=float, default=0.02)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--dataset", type=int, default=100)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(7)
    trainer = DistributedTrainer(
        auto_scale_lr=False,
        checkpoint_interval=1,
        checkpoint_every=args.every,
        global_batch_size=8,
        seed=7,
    )
    print(f"rank {trainer.rank} of {trainer.size}", flush=True)
    inputs = torch.randn(args.dataset, 16, generator=torch.Generator().manual_seed(1))
    targets = inputs.roll(1, 1) * inputs
    seen = args.out / f"seen-{os.environ.get('DTO_ATTEMPT', '0')}-{trainer.rank}.txt"
    model = nn.Sequential(
        nn.Linear(16, args.hidden),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(args.hidden, args.hidden),
        nn.ReLU(),
        nn.Linear(args.hidden, 16),
    )
    history = trainer.fit(
        model=model,
        train_loader=DataLoader(Numbered(seen, inputs, targets), batch_size=8, shuffle=True),
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=Paced(args.pace),
        num_epochs=args.epochs,
    )
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().numpy().tobytes())
    losses = " ".join(f"{loss:.9e}" for loss in history["train_loss"])
    result = args.out / f"weights-{trainer.rank}.txt"
    result.write_text(f"{digest.hexdigest()}\n{losses}\n")
    print(f"rank {trainer.rank} ended at {history['train_loss'][-1]:.9e}", flush=True)


if __name__ == "__main__":
    main()
