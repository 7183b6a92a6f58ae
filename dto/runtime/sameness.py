"""What all ranks, and all attempts of a run, must have alike; said before it hangs or misleads."""

from __future__ import annotations

import logging
from itertools import zip_longest
from typing import Any, Protocol

from torch import nn
from torch.utils.data import DataLoader

from dto.errors import WorldError

log = logging.getLogger(__name__)


class Gatherer(Protocol):
    """A transport, or a part of the ranks."""

    def all_gather_object(self, value: Any) -> list[Any]:
        """Everybody's value, by rank."""


def describe_model(model: nn.Module) -> list[str]:
    """One line for each parameter and buffer."""
    values = [*model.named_parameters(), *model.named_buffers()]
    return [
        f"{name} {tuple(value.shape)} {value.dtype}{' trained' if value.requires_grad else ''}"
        for name, value in values
    ]


def describe_data(loader: DataLoader[Any]) -> str:
    """How much data there is; a stream may not know."""
    try:
        return f"{len(loader.dataset)} samples"  # type: ignore[arg-type]
    except TypeError:
        return "a stream of samples"


def require_same(transport: Gatherer, what: str, mine: list[str]) -> None:
    """Raise on every rank if any has other lines than rank 0.

    All compare with rank 0, so that all blame the same one.
    """
    everyones = transport.all_gather_object(mine)
    for rank, theirs in enumerate(everyones):
        if theirs != everyones[0]:
            pairs = zip_longest(everyones[0], theirs, fillvalue="nothing more")
            first, other = next((a, b) for a, b in pairs if a != b)
            raise WorldError(f"rank {rank} has {what}: {other} instead of {first} on rank 0")


def warn_of_other_data(then: str | None, now: str) -> None:
    """A resume counts samples: on other data they are not those that were trained on."""
    if then is not None and then != now:
        log.warning(
            "the checkpoint was taken on %s, and now there are %s: the rest of its epoch is"
            " drawn anew, so samples may be repeated or left out",
            then,
            now,
        )
