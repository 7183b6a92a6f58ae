"""Brings the ledger in line with which machines really answer. Pure but for the questions asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dto.cluster.node.ledger import Account, Ledger, Row
from dto.cluster.node.members import Member

OURS = ("budget", "idle")
"""Causes of an `off` that the guard itself made."""
_OFF_GRACE = 180.0
"""So long a machine may go on answering after it was switched off."""
_SILENT = 600.0
_START_LIMIT = 900.0
_GAP = 900.0
"""A machine that was away for less was only started again: the cloud's clock ran on."""


@dataclass(frozen=True)
class Moment:
    """What is true now: who answers, and since when this guard has been looking."""

    now: float
    watching_since: float
    answers: Mapping[str, bool]
    first_counts_boot: bool
    """Whether a machine that is seen first counts from its boot: one of a cloud does."""


def rows_to_add(
    ledger: Ledger, members: Sequence[Member], moment: Moment, boot: Callable[[Member], float]
) -> list[Row]:
    """Return what the journal lacks. `boot` asks a machine since when it has been up."""
    rows = []
    for member in members:
        account = ledger.accounts.get(member.name) or Account()
        if moment.answers.get(member.name, False):
            rows += _answering(account, member, moment, boot)
        else:
            rows += _silent(account, member, moment)
    known = {member.name for member in members}
    for name, account in ledger.accounts.items():
        if name not in known and account.is_on:
            rows.append(_row(_left_at(account, moment.now), "off", name, "it left the cluster"))
    return rows


def _left_at(account: Account, now: float) -> float:
    """Return when it was last seen; that is on disk only now and then, so just now is now."""
    seen = max(account.last_seen, account.since)
    return now if now - seen < _GAP else seen


def switched_off(ledger: Ledger, members: Sequence[Member]) -> dict[str, str]:
    """Return why, of the machines that the guard itself holds off; none that it started in vain."""
    found = {}
    for member in members:
        account = ledger.accounts.get(member.name) or Account()
        if account.is_on or account.off_at is None or account.cause not in OURS:
            continue
        if account.is_starting or account.tried_at <= account.off_at:
            found[member.name] = account.cause
    return found


def _answering(
    account: Account, member: Member, moment: Moment, boot: Callable[[Member], float]
) -> list[Row]:
    now = moment.now
    if account.is_on:
        return _still_on(account, member, moment, boot)
    if account.start_at is not None:
        return [_on(account.start_at, member, "it was started")]
    if account.off_at is None:
        first = min(boot(member), now) if moment.first_counts_boot else now
        return [_on(first, member, "it answers")]
    if account.cause in OURS and now - account.off_at < _OFF_GRACE:
        return []
    since = min(boot(member), now)
    cause = "it did not go off" if since <= account.off_at else "it answers again"
    return [_on(max(account.off_at, since), member, cause)]


def _still_on(
    account: Account, member: Member, moment: Moment, boot: Callable[[Member], float]
) -> list[Row]:
    now = moment.now
    rows = []
    if now - account.last_seen > _GAP:  # nobody looked: was it on all the time?
        began = min(boot(member), now)
        if began > account.last_seen + _GAP:
            rows.append(_row(account.last_seen, "off", member.name, "it was off, unseen"))
            rows.append(_on(began, member, "it answers again"))
    if not rows and account.price != member.price:
        rows.append(_on(now, member, "its price"))
    return rows


def _silent(account: Account, member: Member, moment: Moment) -> list[Row]:
    now = moment.now
    if account.is_on:
        quiet_since = max(account.last_seen, moment.watching_since)
        if now - quiet_since > _SILENT:
            at = max(account.last_seen, account.since)
            return [_row(at, "off", member.name, "it is silent")]
    elif account.start_at is not None and now - account.start_at > _START_LIMIT:
        return [_row(now, "lost", member.name, "it did not come on")]
    return []


def _on(at: float, member: Member, cause: str) -> Row:
    return {**_row(at, "on", member.name, cause), "price": member.price}


def _row(at: float, event: str, name: str, cause: str) -> Row:
    return {"t": round(at, 3), "event": event, "node": name, "cause": cause}
