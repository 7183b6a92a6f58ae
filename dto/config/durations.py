"""Times as people write them, in seconds, and as SLURM writes them."""

from __future__ import annotations

import re

_UNITS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def parse_time_limit(text: str) -> int:
    """Return a time limit in seconds: `4h`, `1h30m`, or sbatch's `90`, `24:00:00`, `1-12`.

    A bare number is minutes, as everywhere in SLURM.

    Raises:
        ValueError: the text is neither.
    """
    parts = _units(text)
    if parts is not None:
        return _positive(parts, text)
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time: write 4h, 90m, 1h30m or 24:00:00")
    days, *rest = match.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        seconds = int(days) * 86400 + _weigh(numbers, [3600, 60, 1])
    elif len(numbers) == 3:
        seconds = _weigh(numbers, [3600, 60, 1])
    else:  # minutes[:seconds]
        seconds = _weigh(numbers, [60, 1])
    return _positive(seconds, text)


def parse_seconds(text: str) -> float:
    """Return seconds from `30`, `30s` or `2m`; a bare number is seconds.

    Raises:
        ValueError: the text is none of these.
    """
    parts = _units(text)
    if parts is not None:
        return float(parts)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds: write 30, 30s or 2m") from None


def slurm_time(seconds: int) -> str:
    """Return `[D-]HH:MM:SS`, the form that every SLURM tool takes."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _units(text: str) -> float | None:
    compact = text.strip().lower().replace(" ", "")
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _weigh(numbers: list[int], weights: list[int]) -> int:
    return sum(number * weight for number, weight in zip(numbers, weights, strict=False))


def _positive(seconds: float, text: str) -> int:
    if seconds < 1:
        raise ValueError(f"{text!r} is no time at all: take at least a minute")
    return round(seconds)
