"""Train a small network on real scans of handwritten digits, on any number of workers.

    dto run -n 2 examples/simple_net.py --epochs 5

The digits are the 1,797 images of 8 x 8 pixels that scikit-learn carries, so nothing is downloaded.
`--batch-size` is the global batch, over all workers: any number of them takes the same steps.
"""

from __future__ import annotations

import argparse
import os
import socket

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dto import DistributedTrainer

HELD_OUT = 360


class SimpleNet(nn.Module):
    """Two hidden layers and a dropout between them."""

    def __init__(
        self, input_size: int, hidden_size: int, num_classes: int, dropout_rate: float = 0.2
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout_rate),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, num_classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)  # (batch, input_size) -> (batch, num_classes)


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """The same split everywhere: 1,437 digits to learn from, 360 that training never sees."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held_out, train = order[:HELD_OUT], order[HELD_OUT:]
    return (
        TensorDataset(images[train], labels[train]),
        TensorDataset(images[held_out], labels[held_out]),
    )


def accuracy(model: nn.Module, data: TensorDataset, device: torch.device) -> float:
    images, labels = data.tensors
    model.eval()
    with torch.no_grad():
        right = model(images.to(device)).argmax(dim=1).cpu() == labels
    return right.float().mean().item()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64, help="over all workers")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", help="such as 50steps or 10m, beside every epoch")
    parser.add_argument("--backend", default="auto", help="auto, gloo, nccl or horovod")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    torch.manual_seed(options.seed)
    train, held_out = load_data()
    model = SimpleNet(64, options.hidden, 10, dropout_rate=options.dropout)
    trainer = DistributedTrainer(
        auto_scale_lr=False,
        checkpoint_interval=1,
        checkpoint_every=options.checkpoint_every,
        global_batch_size=options.batch_size,
        backend=options.backend,
        seed=options.seed,
        verbose=False,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    print(f"rank {trainer.rank}/{trainer.size} on {node}", flush=True)
    history = trainer.fit(
        model,
        DataLoader(train, batch_size=options.batch_size, shuffle=True),
        optimizer,
        nn.CrossEntropyLoss(),
        options.epochs,
        val_loader=DataLoader(held_out, batch_size=options.batch_size),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs),
    )
    if trainer.is_master():
        right = accuracy(model, held_out, trainer.device)
        print(f"final train loss {history['train_loss'][-1]:.8f}")
        print(f"accuracy {right:.4f} on {len(held_out)} held-out digits")


if __name__ == "__main__":
    main()
