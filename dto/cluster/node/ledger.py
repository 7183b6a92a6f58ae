"""What the cluster has used, out of a journal of when its machines went on and off. Pure.

A row: {"t": seconds since 1970, "event": …, "node": …, …}. Events of a node: `on` (with its price),
`off`, `start` (it was asked to come on), `lost` (it did not). `seen` names those that were on; of
the guard itself tell `warned`, `exhausted` and `raised`. Rows are only ever added; one that
corrects an earlier one has a `t` in the past.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass
class Account:
    """One machine: what it has used, and how it stands."""

    is_on: bool = False
    since: float = 0.0
    price: float | None = None
    hours: float = 0.0
    amount: float = 0.0
    last_seen: float = 0.0
    cause: str = ""
    """Why it went on or off."""
    off_at: float | None = None
    start_at: float | None = None
    """When it was asked to come on, while that is not settled."""
    tried_at: float = 0.0

    @property
    def is_starting(self) -> bool:
        return self.start_at is not None and not self.is_on

    def used(self, now: float) -> tuple[float, float]:
        """Return hours and amount up to now."""
        if not self.is_on:
            return self.hours, self.amount
        hours = max(now - self.since, 0.0) / 3600
        return self.hours + hours, self.amount + hours * (self.price or 0.0)

    def take(self, row: Mapping[str, Any]) -> None:
        event, at = row["event"], float(row["t"])
        if event == "start":
            self.start_at = self.tried_at = at
        if event == "lost":
            self.start_at = None
        if event in ("on", "off"):
            self.hours, self.amount = self.used(at)
            self.is_on, self.since = event == "on", at
            self.start_at, self.cause = None, str(row.get("cause", ""))
            self.off_at = None if self.is_on else at
        if event == "on":
            self.price = row.get("price")
            self.last_seen = max(self.last_seen, at)


@dataclass
class Ledger:
    """All machines, by their names, and where the budget stood when that was last noted."""

    accounts: dict[str, Account] = field(default_factory=dict)
    began: float | None = None
    state: str = "ok"

    def take(self, row: Mapping[str, Any]) -> None:
        self.began = float(row["t"]) if self.began is None else min(self.began, float(row["t"]))
        event = row["event"]
        if event == "seen":
            for name in row["nodes"]:
                if name in self.accounts:
                    self.accounts[name].last_seen = float(row["t"])
        elif event in ("warned", "exhausted", "raised"):
            self.state = "ok" if event == "raised" else event
        else:
            self.account(str(row["node"])).take(row)

    def account(self, name: str) -> Account:
        return self.accounts.setdefault(name, Account())


def read_ledger(rows: Iterable[Mapping[str, Any]]) -> Ledger:
    ledger = Ledger()
    for row in rows:
        ledger.take(row)
    return ledger


@dataclass(frozen=True)
class Budget:
    """What may be used; None is no limit. `hours` are those of nodes, not of a mere head."""

    amount: float | None = None
    hours: float | None = None
    idle_minutes: float | None = None


@dataclass(frozen=True)
class Used:
    """What was used until a moment; `unknown` are machines that count in hours alone."""

    hours: dict[str, float]
    amount: float
    node_hours: float
    unknown: tuple[str, ...]

    def share(self, budget: Budget) -> float:
        """Return the larger share of the two limits; a limit of nothing is used up at once."""
        pairs = ((self.amount, budget.amount), (self.node_hours, budget.hours))
        return max((_share(used, limit) for used, limit in pairs if limit is not None), default=0.0)


def _share(used: float, limit: float) -> float:
    return used / limit if limit > 0 else float("inf")


def used(ledger: Ledger, now: float, mere_head: str = "") -> Used:
    hours, amount, unknown = {}, 0.0, []
    for name, account in ledger.accounts.items():
        hours[name], cost = account.used(now)
        amount += cost
        if account.price is None and hours[name] > 0:
            unknown.append(name)
    node_hours = sum(count for name, count in hours.items() if name != mere_head)
    return Used(hours, amount, node_hours, tuple(sorted(unknown)))


WARN_SHARE = 0.8


def level(share: float) -> str:
    if share >= 1.0:
        return "exhausted"
    return "warned" if share >= WARN_SHARE else "ok"
