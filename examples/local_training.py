"""A loop written by hand with DistributedTrainer's parts; plain `python` is enough to run it.

python examples/local_training.py
dto run -n 2 examples/local_training.py
"""

from __future__ import annotations

import argparse

import torch
from simple_net import SimpleNet, accuracy, load_data
from torch import nn
from torch.utils.data import DataLoader

from dto import DistributedTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="over all workers")
    options = parser.parse_args()
    torch.manual_seed(0)
    train, held_out = load_data()
    trainer = DistributedTrainer(auto_scale_lr=False, global_batch_size=options.batch_size)
    model = trainer.prepare_model(SimpleNet(64, 128, 10, dropout_rate=0.0))
    optimizer = trainer.prepare_optimizer(torch.optim.Adam(model.parameters(), lr=0.002), model)
    loader = trainer.prepare_dataloader(
        DataLoader(train, batch_size=options.batch_size, shuffle=True)
    )
    criterion = nn.CrossEntropyLoss()
    for epoch in range(options.epochs):
        loader.sampler.set_epoch(epoch)
        sums = torch.zeros(2, device=trainer.device)  # loss * samples, samples
        for images, labels in loader:
            images, labels = images.to(trainer.device), labels.to(trainer.device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            sums += torch.tensor([loss.item() * len(labels), len(labels)], device=trainer.device)
        sums = trainer.allreduce(sums, average=False)
        trainer.log(f"epoch {epoch + 1}: loss {sums[0] / sums[1]:.4f} of {int(sums[1])} samples")
    if trainer.is_master():
        print(f"accuracy {accuracy(model, held_out, trainer.device):.4f}")


if __name__ == "__main__":
    main()
