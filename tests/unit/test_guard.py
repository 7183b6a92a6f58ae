"""What the cost guard counts, and reads again after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dto.cluster.node import guard, ledger, reality
from dto.cluster.node.journal import Journal
from dto.cluster.node.ledger import Budget, Row
from dto.cluster.node.members import Guarded, Member, parse_guarded
from dto.cluster.node.reality import Moment

HOUR = 3600.0
HEAD = Member("head", "10.0.0.1", price=0.5, is_node=False, is_head=True)
N1 = Member("n1", "10.0.0.2", "i-1", "gpu", ("gpu", "all"), price=10.0)
N2 = Member("n2", "10.0.0.3", "i-2", "gpu", ("gpu", "all"), price=10.0)


def guarded(provider: str = "nebius", **budget: float) -> Guarded:
    raw = {"provider": provider, "members": [], "budget": budget,
           "power": {"on": "switch on {name}", "off": "switch off {name}"}}  # fmt: skip
    return parse_guarded(raw)


def row(at: float, event: str, node: str = "n1", **more: object) -> Row:
    return {"t": at, "event": event, "node": node, **more}


# The budget


def test_hours_and_amounts_follow_each_machines_own_times_and_prices():
    rows = [
        row(0, "on", price=10.0), row(0, "on", "n2", price=None), row(0, "on", "head", price=0.5),
        row(2 * HOUR, "off"), row(2 * HOUR, "on", "head", price=1.0),
    ]  # fmt: skip
    used = ledger.used(ledger.read_ledger(rows), 4 * HOUR, mere_head="head")
    assert used.hours == {"n1": 2.0, "n2": 4.0, "head": 4.0}
    assert used.amount == 2 * 10.0 + 2 * 0.5 + 2 * 1.0
    assert used.node_hours == 6.0
    assert used.unknown == ("n2",)


@pytest.mark.parametrize(
    ("amount", "hours", "level"),
    [
        (None, None, "ok"), (100, None, "ok"), (25, None, "warned"), (20, None, "exhausted"),
        (100, 2, "exhausted"), (100, 2.5, "warned"), (0, None, "exhausted"),
    ],
)  # fmt: skip
def test_the_larger_share_of_the_two_limits_counts(
    amount: float | None, hours: float | None, level: str
):
    used = ledger.used(ledger.read_ledger([row(0, "on", price=10.0)]), 2 * HOUR)
    assert ledger.level(used.share(Budget(amount, hours))) == level


# The journal


def test_a_restarted_guard_knows_what_the_last_one_knew(tmp_path: Path):
    path = tmp_path / "cost/journal.jsonl"
    first = Journal(path)
    first.add(row(100, "on", price=10.0))
    first.see(160, ["n1"], is_written=True)
    first.add(row(200, "exhausted", ""))
    again = Journal(path)
    assert again.ledger == first.ledger
    assert again.ledger.state == "exhausted" and again.seen_at == 160
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_row_that_a_crash_cut_off_takes_no_other_with_it(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(row(0, "on", price=1.0)) + '\n{"t": 5, "ev')
    Journal(path).add(row(HOUR, "off"))
    assert Journal(path).ledger.account("n1").used(2 * HOUR) == (1.0, 1.0)


# What answers


def rows_for(
    rows: list[Row], now: float, answers: bool, boot: float = 0.0, watching: float = 0.0,
    first_counts_boot: bool = True, member: Member = N1,
) -> list[Row]:  # fmt: skip
    accounts = ledger.read_ledger(rows)
    moment = Moment(now, watching, {member.name: answers}, first_counts_boot)
    return reality.rows_to_add(accounts, [member], moment, lambda _: boot)


def short(rows: list[Row]) -> list[tuple[str, float]]:
    return [(one["event"], one["t"]) for one in rows]


def test_a_machine_of_a_cloud_counts_from_its_boot_and_an_own_one_from_now_on():
    assert short(rows_for([], 500, True, boot=100)) == [("on", 100)]
    assert short(rows_for([], 500, True, boot=100, first_counts_boot=False)) == [("on", 500)]
    assert rows_for([], 500, False) == []


def test_a_machine_that_ran_while_the_head_was_away_counts_throughout():
    seen = [row(0, "on", price=10.0), {"t": 600, "event": "seen", "nodes": ["n1"]}]
    assert rows_for(seen, 20_000, True, boot=0, watching=19_990) == []


def test_a_machine_that_was_off_while_the_head_was_away_does_not_count_meanwhile():
    seen = [row(0, "on", price=10.0), {"t": 600, "event": "seen", "nodes": ["n1"]}]
    new = rows_for(seen, 20_000, True, boot=15_000, watching=19_990)
    assert short(new) == [("off", 600), ("on", 15_000)]
    accounts = ledger.read_ledger([*seen, *new])
    assert accounts.account("n1").used(20_000)[0] == pytest.approx((600 + 5000) / HOUR)


def test_a_machine_that_only_booted_again_costs_all_the_time():
    seen = [row(0, "on", price=10.0), {"t": 600, "event": "seen", "nodes": ["n1"]}]
    assert rows_for(seen, 1000, True, boot=900, watching=990) == []


def test_silence_counts_as_off_only_after_a_while_and_from_its_beginning():
    seen = [row(0, "on", price=10.0), {"t": 600, "event": "seen", "nodes": ["n1"]}]
    assert rows_for(seen, 900, False) == []
    assert short(rows_for(seen, 1300, False)) == [("off", 600)]
    assert rows_for(seen, 9000, False, watching=8990) == [], "a new guard asks for a while first"
    silent = [*seen, row(600, "off", cause="it is silent")]
    assert short(rows_for(silent, 3000, True, boot=0)) == [("on", 600)]


def test_a_machine_that_was_switched_off_may_take_a_while_to_go():
    off = [row(0, "on", price=10.0), row(100, "off", cause="budget")]
    assert rows_for(off, 150, True, boot=0) == []
    assert short(rows_for(off, 400, True, boot=0)) == [("on", 100)]
    assert short(rows_for(off, 9000, True, boot=8000)) == [("on", 8000)]


def test_a_started_machine_counts_from_the_command_and_one_that_never_comes_does_not():
    started = [row(0, "on", price=1.0), row(100, "off", cause="budget"), row(500, "start")]
    assert short(rows_for(started, 560, True, boot=540)) == [("on", 500)]
    assert rows_for(started, 560, False) == []
    assert short(rows_for(started, 1500, False)) == [("lost", 1500)]


def test_a_new_price_counts_from_now_on():
    assert short(rows_for([row(0, "on", price=9.0)], 300, True)) == [("on", 300)]


def test_who_left_the_record_counts_until_it_was_last_seen():
    rows = [row(0, "on", "old", price=9.0), {"t": 600, "event": "seen", "nodes": ["old"]}]
    left = rows_for(rows, 90_000, False)
    assert short(left) == [("off", 600)] and left[0]["node"] == "old"
    accounts = ledger.read_ledger([*rows, *left])
    assert ledger.used(accounts, 99_000).hours == {"old": 600 / HOUR}
    assert rows_for([*rows, *left], 90_005, False) == []
    assert short(rows_for(rows, 1400, False)) == [("off", 1400)], "a new guard's notes are coarse"
    fresh = rows_for([row(700, "on", "old", price=9.0)], 90_000, False)
    assert short(fresh) == [("off", 700)], "never before it went on"


def test_what_the_guard_switched_off_is_told_apart_from_what_is_silent():
    rows = [
        *(row(0, "on", name, price=1.0) for name in ("a", "b", "c", "d", "e", "f", "gone")),
        row(100, "off", "a", cause="idle"), row(100, "off", "b", cause="budget"),
        row(100, "off", "c", cause="it is silent"), row(100, "off", "gone", cause="idle"),
        row(100, "off", "d", cause="idle"), row(200, "start", "d"),
        row(100, "off", "e", cause="idle"), row(200, "start", "e"), row(1100, "lost", "e"),
    ]  # fmt: skip
    members = [Member(name, "10.0.0.2") for name in ("a", "b", "c", "d", "e", "f", "new")]
    off = reality.switched_off(ledger.read_ledger(rows), members)
    assert off == {"a": "idle", "b": "budget", "d": "idle"}, "d is coming, e does not come"


def test_people_read_how_much_is_used():
    used = ledger.Used({"n1": 3.0}, 41.5, 3.0, ())
    assert guard.budget_words("warned", used, guarded(amount=50)).startswith(
        "budget of the cluster: 41.50 of 50.00 USD used; at 100 %"
    )
