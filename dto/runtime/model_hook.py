"""Forward hooks that belong to one model alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class ModelHook:
    """Calls a method of the model's owner; copies and pickles of the model get none."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        return self._method(*args)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return nothing

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return (_give_nothing, ())


def nothing(module: nn.Module, *args: Any) -> None:
    """The hook of a copy."""


def _give_nothing() -> Callable[..., None]:
    return nothing
