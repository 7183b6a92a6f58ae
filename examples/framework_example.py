"""Seven ways to use DistributedTrainer, each by its name.

dto run -n 2 examples/framework_example.py                       # all that need no bucket
dto run -n 2 examples/framework_example.py main_with_resume      # one of them
dto run examples/framework_example.py main_with_s3_backup --bucket arn:aws:s3:::NAME
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from simple_net import SimpleNet, accuracy, load_data
from torch import nn
from torch.utils.data import DataLoader

from dto import DistributedTrainer


@dataclass(frozen=True)
class Setting:
    """What the command line chose; each scenario keeps its checkpoints in a folder of its own."""

    epochs: int
    bucket: str | None
    root: Path

    def trainer(self, scenario: str, **arguments: Any) -> DistributedTrainer:
        return DistributedTrainer(
            auto_scale_lr=False, verbose=False, run_dir=self.root / scenario, **arguments
        )


def parts() -> tuple[nn.Module, DataLoader, torch.optim.Optimizer, nn.Module]:
    """A fresh model, its data, its optimizer and its loss."""
    torch.manual_seed(0)
    model = SimpleNet(64, 64, 10)
    loader = DataLoader(load_data()[0], batch_size=64, shuffle=True)
    return model, loader, torch.optim.Adam(model.parameters(), lr=0.002), nn.CrossEntropyLoss()


def main_simple(setting: Setting) -> str:
    """Train and keep the final model."""
    trainer = setting.trainer("main_simple")
    model, loader, optimizer, criterion = parts()
    history = trainer.fit(model, loader, optimizer, criterion, setting.epochs)
    right = accuracy(model, load_data()[1], trainer.device)
    return f"loss {history['train_loss'][-1]:.4f}, accuracy {right:.3f}"


def main_with_s3_backup(setting: Setting) -> str:
    """Every checkpoint, and the final model, also go to a bucket."""
    trainer = setting.trainer(
        "main_with_s3_backup", checkpoint_interval=1, s3_bucket_arn=setting.bucket
    )
    trainer.fit(*parts(), setting.epochs)
    found = trainer.list_s3_checkpoints() if trainer.is_master() else []
    return f"{len(found)} checkpoints in {setting.bucket}"


def main_with_resume(setting: Setting) -> str:
    """Stop halfway; a second trainer finds the first one's checkpoint and goes on."""
    half = max(1, setting.epochs // 2)
    setting.trainer("main_with_resume", checkpoint_interval=1).fit(*parts(), half)
    again = setting.trainer("main_with_resume", checkpoint_interval=1)
    history = again.fit(*parts(), 2 * half, resume_from_checkpoint="auto")
    return f"epochs {history['epochs']}, the last {half} of them after the resume"


def main_best_checkpoint_only(setting: Setting) -> str:
    """Keep only the checkpoint with the lowest loss."""
    trainer = setting.trainer(
        "main_best_checkpoint_only", checkpoint_interval=1, save_best_only=True
    )
    trainer.fit(*parts(), setting.epochs)
    return f"best loss {trainer.best_metric:.4f} in {trainer.get_latest_checkpoint()}"


def main_custom(setting: Setting) -> str:
    """A training step of your own: gradients are clipped, and the clip comes through fit."""
    trainer = setting.trainer("main_custom")
    history = trainer.fit(*parts(), setting.epochs, train_step_fn=clipped_epoch, clip=1.0)
    return f"loss {history['train_loss'][-1]:.4f}"


def clipped_epoch(
    model: nn.Module,
    train_loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    criterion: nn.Module,
    device: torch.device,
    trainer: DistributedTrainer,
    epoch: int,
    clip: float,
    **_: Any,
) -> dict[str, float]:
    """One epoch; returns its metrics, the same on every rank."""
    model.train()
    sums = torch.zeros(2, device=device)  # loss * samples, samples
    for images, labels in train_loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        sums += torch.tensor([loss.item() * len(labels), len(labels)], device=device)
    sums = trainer.allreduce(sums, average=False)
    trainer.log(f"epoch {epoch}: {int(sums[1])} samples")
    return {"loss": float(sums[0] / sums[1])}


def manual_checkpoint_example(setting: Setting) -> str:
    """Save and load checkpoints where you want, beside `fit`."""
    trainer = setting.trainer("manual_checkpoint_example", checkpoint_interval=0)
    model, loader, optimizer, criterion = parts()
    history = trainer.fit(model, loader, optimizer, criterion, setting.epochs)
    metrics = {"loss": history["train_loss"][-1]}
    trainer.save_checkpoint(setting.epochs - 1, model, optimizer, metrics, is_best=True)
    trainer.allreduce(torch.zeros(1))  # rank 0 wrote; nobody looks before it is done
    path = trainer.get_latest_checkpoint()
    other, _, other_optimizer, _ = parts()
    trainer.load_checkpoint(path, other, other_optimizer)
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))  # noqa: B905
    return f"{path}: {'the same weights' if same else 'OTHER WEIGHTS'} after loading"


def s3_download_example(setting: Setting) -> str:
    """Fetch the newest checkpoint that a bucket holds."""
    trainer = setting.trainer("s3_download_example", s3_bucket_arn=setting.bucket)
    if not trainer.is_master():
        return ""
    keys = trainer.list_s3_checkpoints()
    if not keys:
        return f"{setting.bucket} holds no checkpoint: run main_with_s3_backup first"
    path = trainer.download_checkpoint_from_s3(keys[-1], setting.root / "downloaded")
    return f"{keys[-1]} is now in {path}"


SCENARIOS: dict[str, Callable[[Setting], str]] = {
    "main_simple": main_simple,
    "main_with_s3_backup": main_with_s3_backup,
    "main_with_resume": main_with_resume,
    "main_best_checkpoint_only": main_best_checkpoint_only,
    "main_custom": main_custom,
    "manual_checkpoint_example": manual_checkpoint_example,
    "s3_download_example": s3_download_example,
}
WITH_BUCKET = ("main_with_s3_backup", "s3_download_example")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--bucket", help="name or ARN, for the two scenarios with s3 in their name")
    options = parser.parse_args()
    chosen = options.scenarios or [
        name for name in SCENARIOS if options.bucket or name not in WITH_BUCKET
    ]
    for name in chosen:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}: choose from {', '.join(SCENARIOS)}")
        if name in WITH_BUCKET and not options.bucket:
            parser.error(f"{name} needs a bucket: add --bucket arn:aws:s3:::NAME")
    root = Path(os.environ.get("DTO_RUN_DIR", "checkpoints")) / "scenarios"
    setting = Setting(options.epochs, options.bucket, root)
    for name in chosen:
        text = SCENARIOS[name](setting)
        if os.environ.get("RANK", "0") == "0":
            print(f"{name}: {text}", flush=True)


if __name__ == "__main__":
    main()
