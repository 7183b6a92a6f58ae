"""SLURM's short form of node names, such as `gpu[01-03,7]`, spelled out."""

from __future__ import annotations

import re
from itertools import product

from dto.errors import DtoError

_PART = re.compile(r"[^\[\],\s]+|\[[0-9,\-]+\]")


def expand_hostlist(text: str) -> list[str]:
    """Return the names in order. `r[1-2]n[1-2]` is r1n1 r1n2 r2n1 r2n2.

    Raises:
        DtoError: brackets that do not match, or a range that runs backwards.
    """
    return [name for item in _split(text) for name in _expand(item)]


def _split(text: str) -> list[str]:
    """Cut at the commas that stand outside brackets."""
    items, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            items.append(text[start:place])
            start = place + 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def _expand(item: str) -> list[str]:
    parts = _PART.findall(item)
    if "".join(parts) != item:
        raise DtoError(f"not a list of nodes: {item!r}")
    choices = [_numbers(part[1:-1], item) if part[0] == "[" else [part] for part in parts]
    return ["".join(combination) for combination in product(*choices)]


def _numbers(ranges: str, item: str) -> list[str]:
    found: list[str] = []
    for piece in ranges.split(","):
        first, _, last = piece.partition("-")
        last = last or first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
            raise DtoError(f"not a list of nodes: {item!r}")
        found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return found
