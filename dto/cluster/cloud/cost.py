"""`cost`: the estimate before an apply; after it, what the head has counted since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dto.cluster.cloud.text import duration, money, table
from dto.cluster.session import Session
from dto.errors import DtoError
from dto.remote.host import Result

_REPORT = ["python3", "/usr/local/lib/dto/node.pyz", "guard", "--report"]
_SECONDS = 60.0


@dataclass(frozen=True)
class Spent:
    """What the head says: hours and money since the cluster was set up."""

    since: str = ""
    currency: str = "USD"
    node_hours: Mapping[str, float] = field(default_factory=dict)
    hourly: Mapping[str, float | None] = field(default_factory=dict)
    amount: float = 0.0
    unknown: tuple[str, ...] = ()
    budget_amount: float | None = None
    budget_hours: float | None = None
    state: str = "ok"
    on: tuple[str, ...] | None = None
    """The machines that are switched on; None where the head does not say."""
    off: Mapping[str, str] = field(default_factory=dict)
    """The machines that the guard itself switched off, each with the cause: budget or idle."""
    mere_head: str = ""
    """The head, where it takes no jobs: its hours cost, but are no node-hours."""

    @property
    def hours(self) -> float:
        return sum(hours for name, hours in self.node_hours.items() if name != self.mere_head)

    @property
    def hourly_now(self) -> float:
        running = self.hourly if self.on is None else self.on
        return sum(self.hourly.get(name) or 0.0 for name in running)


def ask(session: Session) -> tuple[dict[str, Any], Spent]:
    """Ask the head for its report.

    Raises:
        ClusterError: the head does not answer.
    """
    with session.head() as head:
        done = head.run(_REPORT, timeout=_SECONDS, sudo=True)
    raw = report_in(done, session.record.head.name)
    record = session.record
    return raw, read_report(raw, "" if record.head_node else record.head.name)


def report_in(done: Result, head: str) -> dict[str, Any]:
    if done.code == 2 and "invalid choice" in done.err:
        raise DtoError(f"{head} counts no costs yet: bring it up to date (dto cluster setup)")
    try:
        raw = json.loads(done.out) if done.is_ok else None
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        words = (done.err.strip().splitlines() or ["it said nothing"])[-1]
        raise DtoError(f"{head} has no report of its costs: {words}")
    return raw


def read_report(raw: Mapping[str, Any], mere_head: str = "") -> Spent:
    budget, running = raw.get("budget") or {}, raw.get("on")
    return Spent(
        since=str(raw.get("since") or ""),
        currency=str(raw.get("currency") or "USD"),
        node_hours=raw.get("node_hours") or {},
        hourly=raw.get("hourly") or {},
        amount=float(raw.get("amount") or 0.0),
        unknown=tuple(raw.get("unknown") or ()),
        budget_amount=budget.get("amount"),
        budget_hours=budget.get("hours"),
        state=str(raw.get("state") or "ok"),
        on=None if running is None else tuple(running),
        off=raw.get("off") or {},
        mere_head=mere_head,
    )


def told(spent: Spent) -> list[str]:
    """Return a line for each machine, the sum, and how far the budget is used up."""
    rows = []
    for name in sorted({*spent.node_hours, *spent.hourly}):
        hours, price = spent.node_hours.get(name, 0.0), spent.hourly.get(name)
        amount = None if price is None else hours * price
        rows.append((name, f"{hours:,.2f}", money(price), money(amount)))
    head = ("machine", "hours", f"{spent.currency}/h", spent.currency)
    lines = [table(head, rows)] if rows else []
    least = "at least " if spent.unknown else ""
    since = f" since {spent.since}" if spent.since else ""
    lines.append(f"spent: {least}{money(spent.amount)} {spent.currency}{since}, machines alone")
    lines += _budget(spent)
    if spent.unknown:
        missing = ", ".join(spent.unknown)
        lines.append(f"no price is known for {missing}: write it into `prices`, then setup")
    return lines


_STATES = {
    "warned": "warned: 80 % are used up",
    "exhausted": "used up: nodes are switched off until the budget is raised",
}


def _budget(spent: Spent) -> list[str]:
    parts = []
    if spent.budget_amount:
        used = 100 * spent.amount / spent.budget_amount
        parts.append(f"{used:.0f} % of {money(spent.budget_amount)} {spent.currency}")
    if spent.budget_hours:
        used = 100 * spent.hours / spent.budget_hours
        parts.append(f"{used:.0f} % of {spent.budget_hours:g} node-hours")
    if not parts:
        return ["no budget is set"]
    lines = [f"budget: {', '.join(parts)}" + _left(spent)]
    return lines + ([_STATES[spent.state]] if spent.state in _STATES else [])


def _left(spent: Spent) -> str:
    hourly = spent.hourly_now
    if not spent.budget_amount or not hourly or spent.amount >= spent.budget_amount:
        return ""
    hours = (spent.budget_amount - spent.amount) / hourly
    return f"; {duration(hours)} are left if what is on stays on"
