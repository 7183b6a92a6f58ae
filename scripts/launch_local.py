"""Train ResNet-18 on CIFAR-10 with several workers on this machine.

    python -m scripts.launch_local --num_workers 2 --epochs 5

Started by hand it starts its workers with `dto run`; as a worker it trains. The checkpoint file
is written after every epoch, and a later start with the same file goes on from it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.launch_local", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--epochs", type=int, default=5, help="in all, over all starts")
    parser.add_argument("--batch_size", type=int, default=128, help="images per worker and step")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--num_workers", type=int, default=2, help="training processes")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--checkpoint_path", type=Path, default=Path("checkpoints") / "worker.pt")
    parser.add_argument(
        "--k_ratio", type=float, default=0.1, help="share of each gradient to send (not built yet)"
    )
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="has CIFAR-10 in it")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in ("epochs", "batch_size", "num_workers", "width"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if not 0 < options.k_ratio <= 1:
        parser.error("--k_ratio must be above 0 and at most 1")
    return options


def start_workers(options: argparse.Namespace) -> None:
    """Become `dto run` with this module as the script; checks first what would fail later."""
    import torch

    from dto.errors import DtoError
    from examples.cifar import find

    try:
        find(options.data_dir)
    except DtoError as error:
        sys.exit(f"launch_local: error: {error}")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("launch_local: error: torch finds no GPU here: use --device cpu")
    if options.k_ratio < 1:
        print(
            f"launch_local: --k_ratio {options.k_ratio:g} has no effect: top-k compression is not"
            " built yet, so gradients are sent whole (--k_ratio 1 silences this)",
            file=sys.stderr,
            flush=True,
        )
    command = [sys.executable, "-m", "dto.cli", "run", "--name", "launch_local"]
    command += ["--ranks-per-node", str(options.num_workers), "-m", "scripts.launch_local"]
    os.execv(sys.executable, command + sys.argv[1:])


def train(options: argparse.Namespace) -> None:
    """One worker's part."""
    import torch

    from dto import DistributedTrainer
    from dto.checkpoint.legacy import read_legacy

    torch.manual_seed(options.seed)
    path: Path = options.checkpoint_path
    done = read_legacy(path).epochs_done if path.exists() else 0
    trainer = DistributedTrainer(
        auto_scale_lr=False,
        checkpoint_interval=1,
        device="auto" if options.device == "cuda" else "cpu",  # auto: each worker its own GPU
        seed=options.seed,
        verbose=False,
    )
    if trainer.is_master() and done:
        print(f"{path} holds {done} finished epochs: going on with epoch {done + 1}", flush=True)
    if done >= options.epochs:
        return
    history = fit(trainer, options, path if done else None)
    if trainer.is_master():
        print(
            f"loss {history['train_loss'][-1]:.6f}  held-out accuracy"
            f" {history['val_accuracy'][-1]:.4f}  checkpoint {path}"
        )


def fit(trainer: Any, options: argparse.Namespace, start: Path | None) -> dict[str, Any]:
    """Train the rest of the epochs and return their history."""
    import torch
    from torch.utils.data import DataLoader

    from examples.cifar import load
    from examples.resnet import ResNet18

    data, held_out = load(options.data_dir)
    model = ResNet18(width=options.width)
    history: dict[str, Any] = trainer.fit(
        model,
        DataLoader(data, batch_size=options.batch_size, shuffle=True),
        torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=5e-4),
        torch.nn.CrossEntropyLoss(),
        options.epochs,
        train_step_fn=train_and_export,
        resume_from_checkpoint=start,
        val_loader=DataLoader(held_out, batch_size=options.batch_size),
        checkpoint_path=options.checkpoint_path,
    )
    return history


def train_and_export(checkpoint_path: Path, **given: Any) -> dict[str, float]:
    """One epoch as the trainer does it by itself, and after it the file that users know."""
    from dto.checkpoint.legacy import export_worker
    from dto.runtime.epochs import train_epoch

    metrics = train_epoch(**given)
    if given["trainer"].is_master():
        done = given["epoch"] + 1
        steps = done * len(given["train_loader"])
        export_worker(checkpoint_path, given["model"], given["optimizer"], done, steps)
    return metrics


def main() -> None:
    options = parse()
    if "RANK" in os.environ:
        train(options)
    else:
        start_workers(options)


if __name__ == "__main__":
    main()
