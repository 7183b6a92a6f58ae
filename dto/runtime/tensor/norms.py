"""Gradients of a model of which ranks hold some parts and share others."""

from __future__ import annotations

import torch

from dto.runtime.transport import Transport


@torch.no_grad()
def clip(
    cut: list[torch.Tensor],
    shared: list[torch.Tensor],
    max_norm: float,
    transport: Transport,
    device: torch.device,
) -> torch.Tensor:
    """Scale all such that their norm over ranks is at most `max_norm`; returns what it was.

    Every rank has its own of `cut`, and the same `shared`, which count once.
    """
    squares = _square(cut, device)
    transport.all_reduce(squares)
    norm = (squares + _square(shared, device)).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in cut + shared:
        gradient.mul_(factor.to(gradient.dtype))
    return norm


def _square(gradients: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """The squared norm of all of them together."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    for gradient in gradients:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        total += torch.linalg.vector_norm(gradient, dtype=wide).double() ** 2
    return total


@torch.no_grad()
def spread_overflow(
    gradients: list[torch.Tensor], transport: Transport, device: torch.device
) -> None:
    """Where any rank's are not finite, make everybody's infinite."""
    is_fine = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    found = torch.tensor([float(not is_fine)], device=device)
    transport.all_reduce(found)
    if found.item():
        for gradient in gradients:
            gradient.fill_(float("inf"))
