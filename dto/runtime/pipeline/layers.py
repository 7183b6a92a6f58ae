"""Calls layers one after the other, in a lower precision or with less memory where asked to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dto.errors import ConfigError

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Caller:
    """How the layers of a stage are called.

    With `checkpoint_activations` each layer keeps its input alone and is computed once more in
    backward (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016). `autocast` is
    the type that matrix products are computed in.
    """

    checkpoint_activations: bool = False
    autocast: torch.dtype | None = None

    def __call__(self, layers: Sequence[nn.Module], values: Tensors) -> Tensors:
        """The last layer's output; a layer gets the one before's, as in nn.Sequential."""
        value: Any = values[0] if len(values) == 1 else values
        with self.precision():
            for layer in layers:
                value = self._call(layer, value)
        return value if isinstance(value, tuple) else (value,)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast("cpu", self.autocast)

    def _call(self, layer: nn.Module, value: Any) -> Any:
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return layer(value)
        before = _versions(value)
        output = checkpoint(layer, value, use_reentrant=False)
        if _versions(value) != before:
            raise ConfigError(
                f"{type(layer).__name__} changes its input, so it cannot be computed again:"
                " make it inplace=False, or do without checkpoint_activations"
            )
        return output


def _versions(value: Any) -> list[int]:
    """They count how often a tensor was changed in place."""
    values = value if isinstance(value, tuple) else (value,)
    return [one._version for one in values if isinstance(one, torch.Tensor)]
