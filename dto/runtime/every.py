"""When a checkpoint is due: every so many steps, or after so much time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dto.errors import UsageError

_STEPS = re.compile(r"(\d+)\s*steps?")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Every:
    """One of the two is set; neither: never."""

    steps: int | None = None
    seconds: float | None = None

    def is_step_due(self, step: int) -> bool:
        return self.steps is not None and step % self.steps == 0

    def is_time_due(self, seconds_since: float) -> bool:
        return self.seconds is not None and seconds_since >= self.seconds


def parse_every(text: str | int | None) -> Every:
    """Read `200steps`, `15m`, `90s` or `2h`; a plain number counts steps."""
    if text is None:
        return Every()
    plain = str(text).strip().lower()
    steps = _STEPS.fullmatch(plain) or re.fullmatch(r"(\d+)", plain)
    if steps and int(steps[1]) > 0:
        return Every(steps=int(steps[1]))
    time = _TIME.fullmatch(plain)
    if time and float(time[1]) > 0:
        return Every(seconds=float(time[1]) * _SECONDS[time[2]])
    raise UsageError(f"checkpoint_every={text!r} is not an interval: write 200steps, 15m or 2h")
