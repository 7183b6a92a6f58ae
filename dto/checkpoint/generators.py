"""The state of every random number generator as JSON, so that it can travel and be stored."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dto.errors import CheckpointError


def capture_generators() -> dict[str, Any]:
    """State of Python's, numpy's and torch's global generators (CPU, and this rank's GPU)."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "python": [version, _text(np.array(words, dtype="<u4").tobytes()), gauss],
        "numpy": [
            str(name),
            _text(np.asarray(keys, dtype="<u4").tobytes()),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": _tensor_text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        found["cuda"] = _tensor_text(torch.cuda.get_rng_state())
    return found


def restore_generators(saved: Mapping[str, Any]) -> None:
    """Set every generator back; a GPU's state is left out where there is no GPU now."""
    try:
        version, words, gauss = saved["python"]
        numbers = tuple(int(n) for n in np.frombuffer(base64.b64decode(words), dtype="<u4"))
        random.setstate((version, numbers, gauss))
        name, keys, position, has_gauss, cached = saved["numpy"]
        array = np.frombuffer(base64.b64decode(keys), dtype="<u4").astype(np.uint32)
        np.random.set_state((name, array, position, has_gauss, cached))
        torch.set_rng_state(_tensor(saved["torch"]))
        if "cuda" in saved and torch.cuda.is_available():
            torch.cuda.set_rng_state(_tensor(saved["cuda"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the saved random generators are unreadable: {error}") from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tensor_text(tensor: torch.Tensor) -> str:
    return _text(tensor.numpy().tobytes())


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
