"""Gradients that ranks hold in parts, as a whole: their norm, and whether they are finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim import Optimizer

from dto.runtime.transport import Transport


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor lies on this rank."""
    found: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


def local_grads(optimizer: Optimizer) -> list[torch.Tensor]:
    """This rank's parts of the gradients."""
    pieces: Iterable[torch.Tensor] = (
        piece for group in optimizer.param_groups for piece in group["params"]
    )
    return [local(piece.grad) for piece in pieces if piece.grad is not None]


@torch.no_grad()
def clip(
    grads: list[torch.Tensor], max_norm: float, transport: Transport, device: torch.device
) -> torch.Tensor:
    """Scale everybody's gradients such that their common norm is at most `max_norm`.

    Returns the norm before, of float64, the same on every rank.
    """
    squares = torch.zeros(1, dtype=torch.float64, device=device)
    for norm in torch._foreach_norm(grads) if grads else ():
        squares += norm.to(device).double().square()
    transport.all_reduce(squares)
    norm = squares.sqrt().squeeze(0)
    if grads:
        torch._foreach_mul_(grads, float((max_norm / (norm + 1e-6)).clamp(max=1.0)))
    return norm


@torch.no_grad()
def spread_overflow(
    grads: list[torch.Tensor], transport: Transport, device: torch.device
) -> None:
    """Where any rank's gradients are not finite, make everybody's infinite."""
    is_fine = all(bool(torch.isfinite(grad).all()) for grad in grads)
    found = torch.tensor([float(not is_fine)], device=device)
    transport.all_reduce(found)
    if found.item():
        for grad in grads:
            grad.fill_(float("inf"))
