"""Whether a model still has the parts it had: cheap enough to ask before every forward pass."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import nn


class Watch:
    """Notices what was added, replaced, frozen or thawed since it last looked."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.look()

    def look(self) -> None:
        """From now on, this is how the model was."""
        modules = list(self._model.modules())
        tables = [(m._parameters, m._buffers, m._modules) for m in modules]
        self._tables: list[dict[str, Any]] = [table for three in tables for table in three if three]
        self._parts = self._list_parts()
        self._parameters = list(self._model.parameters())
        self._flags = [parameter.requires_grad for parameter in self._parameters]

    def _list_parts(self) -> list[Any]:
        return [part for table in self._tables for part in table.values()]

    def has_changed(self) -> bool:
        parts = self._list_parts()
        if len(parts) != len(self._parts) or not all(map(is_, parts, self._parts)):
            return True
        return [parameter.requires_grad for parameter in self._parameters] != self._flags
