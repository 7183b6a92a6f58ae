"""All-reduce, reduce-scatter, all-gather and broadcast, built on send and receive alone.

Read them in this order: `schedule.py` says what a step is, `algorithms.py` has each algorithm as
a short pure function from a rank to its steps, `wire.py` carries steps out, `header.py` finds
ranks that make different calls, and `group.py` is what a user calls.
"""

from __future__ import annotations

from dto.runtime.collectives.group import (
    ALGORITHMS,
    Collectives,
    all_gather,
    all_reduce,
    broadcast,
    reduce_scatter,
)

__all__ = [
    "ALGORITHMS",
    "Collectives",
    "all_gather",
    "all_reduce",
    "broadcast",
    "reduce_scatter",
]
