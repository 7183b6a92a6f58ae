"""The learning rate for a bigger global batch (Goyal et al., arXiv 1706.02677), applied once."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


def scale_learning_rates(optimizer: Optimizer, scheduler: Any, factor: float) -> None:
    """Multiply every rate of the optimizer, and what a scheduler remembers of them."""
    if factor == 1.0:
        return
    for group in optimizer.param_groups:
        for key in _RATES:
            if key in group:
                group[key] = group[key] * factor
    _scale_scheduler(scheduler, factor)


def _scale_scheduler(scheduler: Any, factor: float) -> None:
    for key in ("base_lrs", "max_lrs", "_last_lr"):
        if hasattr(scheduler, key):
            setattr(scheduler, key, [rate * factor for rate in getattr(scheduler, key)])
    for inner in getattr(scheduler, "_schedulers", ()):
        _scale_scheduler(inner, factor)
