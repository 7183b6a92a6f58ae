"""Your own training loop on any number of machines, with a snapshot file to go on from.

torchrun --nproc_per_node=2 examples/multigpu_multi_node.py 10 2 --batch_size 32
dto run -n 2 examples/multigpu_multi_node.py 10 2 --batch_size 32
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from data_utils import MyTrainDataset
from torch import nn
from torch.utils.data import DataLoader, Dataset

import dto
from dto.checkpoint.legacy import export_snapshot, load_legacy
from dto.runtime.world import read_world


class Trainer:
    """`train(max_epochs)` with one process per worker; rank 0 alone writes the snapshot."""

    def __init__(
        self,
        model: nn.Module,
        train_data: DataLoader,
        optimizer: torch.optim.Optimizer,
        save_every: int,
        snapshot_path: Path,
    ) -> None:
        self.save_every = save_every
        self.snapshot_path = snapshot_path
        self.epochs_run = 0
        if snapshot_path.exists():  # before distribute, which makes all ranks start as rank 0
            self.epochs_run = load_legacy(snapshot_path, model, optimizer).epochs_done
        self.model, self.optimizer, self.train_data = dto.distribute(model, optimizer, train_data)
        self.is_master = read_world(os.environ).rank == 0

    def train(self, max_epochs: int) -> None:
        if self.is_master and self.epochs_run:
            print(f"{self.snapshot_path} holds {self.epochs_run} finished epochs", flush=True)
        for epoch in range(self.epochs_run, max_epochs):
            self.train_data.sampler.set_epoch(epoch)
            loss = self._epoch()
            if self.is_master and loss is not None:
                print(f"epoch {epoch + 1}/{max_epochs}  loss {loss:.6f}", flush=True)
            if self.is_master and (epoch + 1) % self.save_every == 0:
                export_snapshot(self.snapshot_path, self.model, epoch + 1, self.optimizer)

    def _epoch(self) -> float | None:
        """The mean loss of this rank's batches; None where a resumed run had none left."""
        losses = []
        for inputs, targets in self.train_data:
            self.optimizer.zero_grad()
            loss = nn.functional.mse_loss(self.model(inputs), targets)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses) if losses else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("total_epochs", type=int, help="epochs in all, over all starts")
    parser.add_argument("save_every", type=int, help="epochs between two snapshots")
    parser.add_argument("--batch_size", type=int, default=32, help="samples per worker and step")
    parser.add_argument("--snapshot_path", type=Path, default=Path("snapshot.pt"))
    options = parser.parse_args()
    torch.manual_seed(0)
    data: Dataset = MyTrainDataset(2048)
    model = nn.Linear(20, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(data, batch_size=options.batch_size, shuffle=True)
    trainer = Trainer(model, loader, optimizer, options.save_every, options.snapshot_path)
    trainer.train(options.total_epochs)


if __name__ == "__main__":
    main()
