"""How amounts, times and tables are written for people."""

from __future__ import annotations

from collections.abc import Sequence

from dto.cluster.summary import columns


def money(amount: float | None) -> str:
    return "?" if amount is None else f"{amount:,.2f}"


def duration(hours: float) -> str:
    minutes = int(hours * 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} days"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(columns([head, *rows]))


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
