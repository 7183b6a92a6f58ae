"""Nested values split into JSON and named tensors, and put together again exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from dto.errors import CheckpointError

_TENSOR, _TUPLE, _PAIRS, _FLOAT = "__tensor__", "__tuple__", "__pairs__", "__float__"
_COUNTER = "__counter__"
_MARKS = {_TENSOR, _TUPLE, _PAIRS, _FLOAT, _COUNTER}


def pack(value: Any, name: str, tensors: MutableMapping[str, torch.Tensor]) -> Any:
    """JSON for `value`; its tensors move into `tensors` as `name`, `name/key`, `name/0`, …"""
    if isinstance(value, torch.Tensor):
        if name in tensors:
            raise CheckpointError(f"two tensors are called {name}: rename one of the modules")
        tensors[name] = value.detach()
        return {_TENSOR: name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):  # JSON has no infinities
        return value if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, list):
        return [pack(item, f"{name}/{n}", tensors) for n, item in enumerate(value)]
    if isinstance(value, tuple):
        return {_TUPLE: [pack(item, f"{name}/{n}", tensors) for n, item in enumerate(value)]}
    if isinstance(value, Counter):  # MultiStepLR keeps its milestones in one
        return {_COUNTER: pack(dict(value), name, tensors)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not _MARKS & value.keys():
            return {key: pack(item, f"{name}/{key}", tensors) for key, item in value.items()}
        return {
            _PAIRS: [
                [pack(key, f"{name}/key{n}", tensors), pack(item, f"{name}/{key}", tensors)]
                for n, (key, item) in enumerate(value.items())
            ]
        }
    raise CheckpointError(
        f"{name} holds a {type(value).__name__}, which a checkpoint cannot keep:"
        " use numbers, text, lists, dicts or tensors"
    )


def unpack(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if _TENSOR in packed:
        name = packed[_TENSOR]
        if name not in tensors:
            raise CheckpointError(f"the checkpoint has no tensor {name}")
        return tensors[name]
    if _TUPLE in packed:
        return tuple(unpack(item, tensors) for item in packed[_TUPLE])
    if _FLOAT in packed:
        return float(packed[_FLOAT])
    if _COUNTER in packed:
        return Counter(unpack(packed[_COUNTER], tensors))
    if _PAIRS in packed:
        return {unpack(key, tensors): unpack(item, tensors) for key, item in packed[_PAIRS]}
    return {key: unpack(item, tensors) for key, item in packed.items()}
