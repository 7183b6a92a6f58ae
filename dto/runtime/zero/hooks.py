"""Hooks on modules, and the tensors inside whatever a module is given or returns."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn


class Hook:
    """Calls `act` for one module; copies and pickles of the module leave it behind."""

    def __init__(self, module: nn.Module, act: Callable[..., Any]) -> None:
        self._module = weakref.ref(module)
        # torch.compile works around it: what it does to parameters cannot be traced
        self._act: Any = torch.compiler.disable(act)  # type: ignore[no-untyped-call]

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        return self._act(*args) if module is self._module() else None

    def __deepcopy__(self, memo: Any) -> Hook:
        return self

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return (_no_hook, ())


def _no_hook() -> Callable[..., None]:
    return lambda *args: None


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists, tuples, mappings and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def cast(value: Any, dtype: torch.dtype) -> Any:
    """The same lists, tuples and dicts with floating tensors in another dtype."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(cast(item, dtype) for item in value)
    if type(value) is dict:
        return {key: cast(item, dtype) for key, item in value.items()}
    return value


def is_in_backward() -> bool:
    """Whether autograd is at work in this thread: a forward here is a checkpoint's second one."""
    return torch._C._current_graph_task_id() != -1
