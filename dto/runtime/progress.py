"""Rows about how training goes: from rank 0, not too often, and always the last one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from dto.telemetry import Link

PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Row:
    """Where training stood after one step."""

    step: int
    epoch: int
    samples: int
    loss: float | torch.Tensor | None
    """A tensor is read only when the row is posted: reading one waits for its GPU."""


class Progress:
    """Turns steps into metric rows with a rate."""

    def __init__(self, link: Link, is_master: bool) -> None:
        self.total_steps: int | None = None
        self._link, self._is_master = link, is_master
        self._posted_at = time.monotonic()
        self._samples_posted = 0
        self._waiting: Row | None = None

    def start(self) -> None:
        """Count the rate from here on: loading, resuming and validating are no steps."""
        self._posted_at = time.monotonic()

    def tick(self, row: Row) -> None:
        if not self._is_master:
            return
        self._waiting = row
        if time.monotonic() - self._posted_at >= PAUSE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Post the newest row, if it was held back."""
        row, self._waiting = self._waiting, None
        if row is None:
            return
        now = time.monotonic()
        values: dict[str, Any] = {}
        if row.loss is not None:
            values["loss"] = float(row.loss)
        elapsed = now - self._posted_at
        if elapsed > 0:
            values["samples_per_second"] = (row.samples - self._samples_posted) / elapsed
        self._posted_at, self._samples_posted = now, row.samples
        self._link.post(
            "metric",
            step=row.step,
            epoch=row.epoch,
            total_steps=self.total_steps,
            values=values,
        )
