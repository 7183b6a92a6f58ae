"""The model that a finished training leaves: `final_model_<timestamp>.pt`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.torch_file import load_file, load_weights, plain_name, save_file
from dto.errors import CheckpointError

States = tuple[dict[str, Any], dict[str, Any]]
"""What `state_dict()` of a model and of its optimizer return."""


def save_final(
    directory: Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    metrics: Mapping[str, Any] | None = None,
    name: str = "final_model",
    states: States | None = None,
) -> Path:
    """Write the final model under a new name and return its path.

    `states`: those of model and optimizer, where they themselves are not whole.
    """
    stamp = time.strftime("%Y%m%d_%H%M%S")
    path, number = directory / f"{name}_{stamp}.pt", 1
    while path.exists():
        number += 1
        path = directory / f"{name}_{stamp}-{number}.pt"
    content: dict[str, Any] = {
        "model_state_dict": states[0] if states else _plain_state(model),
        "final_metrics": dict(metrics or {}),
        "timestamp": stamp,
        "model_class": type(getattr(model, "_orig_mod", model)).__name__,
    }
    if optimizer is not None:
        content["optimizer_state_dict"] = states[1] if states else optimizer.state_dict()
    save_file(path, content)
    return path


def _plain_state(model: nn.Module) -> dict[str, Any]:
    state = model.state_dict()
    if not any(plain_name(name) != name for name in state):
        return state  # with torch's notes about versions
    return {plain_name(name): value for name, value in state.items()}


def load_final(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load the weights into `model`; returns the rest of the file, metrics among it."""
    content = load_file(path)
    weights = content.pop("model_state_dict", None)
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} holds no model_state_dict: not a final model")
    load_weights(model, weights, path)
    return content
