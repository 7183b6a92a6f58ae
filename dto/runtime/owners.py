"""Which strategy looks after a model, for functions that are given the model alone."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import torch
from torch import nn

_NAME = "_dto_owner"


class Owner(Protocol):
    """A strategy, as far as a loop of one's own needs it."""

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Inside, backward accumulates gradients and sends nothing."""

    def clip_grad_norm(self, max_norm: float) -> torch.Tensor:
        """Scale all gradients such that their norm is at most `max_norm`; returns it as it was."""


class _Kept:
    """An owner as an attribute of its model; copies and pickles of the model have none."""

    def __init__(self, owner: Owner | None = None) -> None:
        self.owner = owner

    def __deepcopy__(self, memo: Any) -> _Kept:
        return _Kept()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return (_Kept, ())


def set_owner(model: nn.Module, owner: Owner) -> None:
    """From now on `owner` looks after the model, and lives as long as it."""
    setattr(model, _NAME, _Kept(owner))


def _owner_of(model: nn.Module) -> Owner | None:
    kept: _Kept | None = getattr(model, _NAME, None)
    return kept.owner if kept is not None else None


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Accumulate gradients without sending them; for a model that nobody distributed: nothing."""
    owner = _owner_of(model)
    return owner.no_sync() if owner else contextlib.nullcontext()


def clip_grad_norm_(model: nn.Module, max_norm: float) -> torch.Tensor:
    """Scale the gradients of `model` such that their norm over all ranks is at most `max_norm`.

    To be called on every rank between `backward()` and `optimizer.step()`. Returns the norm before.
    For a model that nobody distributed it is torch's own.
    """
    owner = _owner_of(model)
    if owner is None:
        return nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return owner.clip_grad_norm(max_norm)
