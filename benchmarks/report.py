"""What a benchmark measures, and how it is told: paired runs, medians, bootstrap bounds."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_RESAMPLES = 2000


class LeftOut(Exception):
    """This machine cannot run a benchmark; the message says what it lacks."""


@dataclass(frozen=True)
class Measure:
    """One figure: `<benchmark>.<case>.<measure>`, with its spread and 95 % bounds."""

    name: str
    value: float
    unit: str
    runs: int
    min: float
    max: float
    low: float
    high: float

    def to_json(self) -> str:
        return json.dumps({key: _short(value) for key, value in vars(self).items()})


def summary(name: str, unit: str, samples: Sequence[float]) -> Measure:
    """The median, with the bounds that resampling gives it."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(samples, k=len(samples))) for _ in range(_RESAMPLES)
    )
    return Measure(
        name=name, value=statistics.median(samples), unit=unit, runs=len(samples),
        min=min(samples), max=max(samples),
        low=medians[int(_RESAMPLES * 0.025)], high=medians[int(_RESAMPLES * 0.975)],
    )  # fmt: skip


def ratio(name: str, ours: Sequence[float], peers: Sequence[float]) -> Measure:
    """Our seconds over the peer's, block by block: below 1 we are faster."""
    pairs = [our / peer for our, peer in zip(ours, peers, strict=True)]
    return summary(name, "ratio", pairs)


def difference(
    name: str, unit: str, ours: Sequence[float], peers: Sequence[float], scale: float = 1.0
) -> Measure:
    """What ours takes more than the peer's, block by block."""
    pairs = [(our - peer) * scale for our, peer in zip(ours, peers, strict=True)]
    return summary(name, unit, pairs)


def shuffled_blocks(
    cases: Mapping[str, Callable[[], float]], blocks: int, seed: int = 0
) -> dict[str, list[float]]:
    """Each block measures every case once, in an order of its own, so drift hits all alike."""
    order = random.Random(seed)
    rows: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(blocks):
        for name in order.sample(list(cases), len(cases)):
            rows[name].append(cases[name]())
    return rows


def table(measures: Sequence[Measure]) -> str:
    """Rows for people."""
    width = max(len(measure.name) for measure in measures)
    head = f"{'measure':<{width}}  {'median':>10}  {'95 % bounds':>21}  {'runs':>4}  unit"
    rows = [
        f"{row.name:<{width}}  {_text(row.value):>10}  "
        f"{_text(row.low) + ' .. ' + _text(row.high):>21}  {row.runs:>4}  {row.unit}"
        for row in measures
    ]
    return "\n".join([head, *rows])


def markdown(measures: Sequence[Measure]) -> str:
    """The same rows for a page."""
    head = f"| measure | median | 95 % bounds | min | max | runs | unit |\n|{'---|' * 7}"
    rows = [
        f"| {row.name} | {_text(row.value)} | {_text(row.low)} to {_text(row.high)} "
        f"| {_text(row.min)} | {_text(row.max)} | {row.runs} | {row.unit} |"
        for row in measures
    ]
    return "\n".join([head, *rows])


def _short(value: str | float) -> str | float:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _text(value: float) -> str:
    return f"{value:.4g}"
