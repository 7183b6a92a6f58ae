"""What ranks tell one another once a step; the sums come with the gradients where they can."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CONTROLS = 4
"""How many values a `Control` is."""


@dataclass
class Control:
    """What ranks tell one another with every synchronised backward; summed over ranks."""

    stop: float = 0.0
    samples: float = 0.0
    save: float = 0.0
    loss: float | torch.Tensor = 0.0
    """Loss times samples; a tensor of one element where reading it would wait for a GPU."""
