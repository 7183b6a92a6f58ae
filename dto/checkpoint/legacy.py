"""Checkpoint files that users already have, read and written by the names they expect.

Three layouts: a run folder of `checkpoint_epoch_NNNN.pt`, one `snapshot.pt`, one `worker.pt`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.torch_file import load_file, load_weights, save_file
from dto.errors import CheckpointError
from dto.runs.files import write_json

# the keys that tell a layout, and where in it the model is
_MODEL_KEYS = {
    "run-folder": "model_state_dict",
    "snapshot": "MODEL_STATE",
    "worker": "model_state",
}


@dataclass(frozen=True)
class Legacy:
    """What such a file holds; `epochs_done` is where training goes on."""

    layout: str
    model: dict[str, Any]
    optimizer: dict[str, Any] | None
    epochs_done: int
    step: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def read_legacy(path: Path) -> Legacy:
    """Read any of the layouts, told apart by their keys."""
    content = load_file(path)
    layout = next((name for name, key in _MODEL_KEYS.items() if key in content), None)
    if layout is None:
        known = ", ".join(_MODEL_KEYS.values())
        raise CheckpointError(f"{path} holds none of the keys {known}: not a known checkpoint")
    model = content[_MODEL_KEYS[layout]]
    if layout == "run-folder":  # its epoch is the number of the last finished one, from 0
        return Legacy(
            layout,
            model,
            content.get("optimizer_state_dict"),
            int(content.get("epoch", -1)) + 1,
            metrics=dict(content.get("metrics") or content.get("final_metrics") or {}),
        )
    if layout == "snapshot":
        optimizer = content.get("OPTIMIZER_STATE")
        return Legacy(layout, model, optimizer, int(content.get("EPOCHS_RUN", 0)))
    return Legacy(
        layout,
        model,
        content.get("optimizer_state"),
        int(content.get("epoch", 0)),
        step=int(content.get("global_step", 0)),
    )


def load_legacy(path: Path, model: nn.Module, optimizer: Optimizer | None = None) -> Legacy:
    """Read such a file into model and, where the file has one, optimizer."""
    found = read_legacy(path)
    load_weights(model, found.model, path)
    if optimizer is not None and found.optimizer is not None:
        try:
            optimizer.load_state_dict(found.optimizer)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{path} does not fit this optimizer: {error}") from error
    return found


def export_epoch(
    folder: Path,
    epoch: int,
    model: nn.Module,
    optimizer: Optimizer,
    metrics: Mapping[str, Any],
    world: int,
    is_best: bool = False,
) -> Path:
    """Write `checkpoint_epoch_NNNN.pt`, `latest_checkpoint.pt`, the best one and the metadata."""
    content = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "metrics": dict(metrics),
        "horovod_size": world,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    path = folder / f"checkpoint_epoch_{epoch:04d}.pt"
    best = [folder / "best_checkpoint.pt"] if is_best else []
    for target in (path, folder / "latest_checkpoint.pt", *best):
        save_file(target, content)
    about = {key: content[key] for key in ("epoch", "metrics", "horovod_size", "timestamp")}
    write_json(folder / "training_metadata.json", {**about, "latest": path.name})
    return path


def export_snapshot(
    path: Path, model: nn.Module, epochs_run: int, optimizer: Optimizer | None = None
) -> None:
    """Write `snapshot.pt`; readers of the old layout leave OPTIMIZER_STATE alone."""
    content: dict[str, Any] = {"MODEL_STATE": model.state_dict(), "EPOCHS_RUN": epochs_run}
    if optimizer is not None:
        content["OPTIMIZER_STATE"] = optimizer.state_dict()
    save_file(path, content)


def export_worker(
    path: Path, model: nn.Module, optimizer: Optimizer, epoch: int, global_step: int
) -> None:
    """Write `worker.pt`: `epoch` finished epochs, `global_step` optimizer steps."""
    save_file(
        path,
        {
            "model_state": model.state_dict(),
            "optimizer_state": optimizer.state_dict(),
            "epoch": epoch,
            "global_step": global_step,
        },
    )
