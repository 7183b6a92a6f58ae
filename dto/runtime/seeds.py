"""One seed in, many unrelated seeds out: for shuffles, workers and ranks, repeatable anywhere."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def derive(seed: int, *path: int | str) -> int:
    """A 63-bit seed for `path`: the same on every machine, unrelated to that of any other path."""
    text = ":".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class OwnChance:
    """Global generators of one's own inside `with`; outside, they are as they were.

    Entered again, they go on where they were left.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inside: tuple[Any, Any, torch.Tensor] | None = None

    def __enter__(self) -> None:
        self._outside = _states()
        if self._inside is None:
            seed_everything(self._seed)
        else:
            _set_states(self._inside)

    def __exit__(self, *error: object) -> None:
        self._inside = _states()
        _set_states(self._outside)


def _states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_states(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
