"""What `drift`, `cost` and the end of a cluster's jobs say, from what was found."""

from __future__ import annotations

import pytest

from dto.cluster.cloud import cost, drift
from dto.cluster.cloud.jobs import problems_of, retire_command
from dto.cluster.cloud.planned import Change, Planned
from dto.errors import DtoError
from dto.remote.host import Result


def planned(changes: list[Change], outside: list[Change]) -> Planned:
    return Planned({}, {}, frozenset(), {}, (), tuple(changes), tuple(outside))


def test_what_was_only_read_anew_is_no_drift() -> None:
    noise = Change("aws_eip.x", "aws_eip", "change", ("association_id",))
    assert drift.of_plan(planned([], [noise])) == []
    gone = Change("aws_eip.y", "aws_eip", "destroy")
    remake = Change("aws_eip.y", "aws_eip", "create")
    (found,) = drift.of_plan(planned([remake], [gone]))
    assert "aws_eip.y was deleted by somebody else" in found.text
    tags = Change("aws_vpc.x", "aws_vpc", "change", ("tags",))
    (found,) = drift.of_plan(planned([tags], [tags]))
    assert found.text == "aws_vpc.x was changed by somebody else: an apply would change back tags"
    (found,) = drift.of_plan(planned([tags], []))
    assert "is not as it is written: an apply would change tags" in found.text


def seen(*names: str, detail: str = "") -> list[drift.Seen]:
    return [drift.Seen(name, f"10.0.0.{name[-1]}", detail) for name in names]


def test_record_slurm_and_cloud_are_laid_side_by_side() -> None:
    assert drift.compare(seen("n1", "n2"), seen("n1", "n2"), seen("n1", "n2")) == []
    kinds = [
        (one.kind, one.name)
        for one in drift.compare(seen("n1", "n4"), seen("n1", "n3"), seen("n1", "n2"))
    ]
    assert kinds == [("zombie", "n2"), ("no machine", "n3"), ("no machine", "n4")]
    (found,) = drift.compare(seen("n1"), seen("n1", "n2"), seen("n1", "n2"))
    assert found.kind == "unknown" and "is not in the record" in found.text


def test_nodes_that_were_switched_off_are_no_drift() -> None:
    off = seen("n1") + seen("n2", detail="dto: budget used up")
    assert drift.compare(seen("n1", "n2"), off, seen("n1")) == []
    assert len(drift.compare(seen("n1", "n2"), seen("n1", "n2"), seen("n1"))) == 1


def test_lists_that_could_not_be_had_prove_nothing() -> None:
    assert drift.compare(seen("n1"), None, None) == []
    assert drift.compare(seen("n1"), None, seen("n1")) == []
    assert drift.compare(seen("n1"), seen("n1"), None) == []


def test_the_heads_report_becomes_a_table_and_a_share_of_the_budget() -> None:
    raw = {
        "since": "2026-01-01T00:00:00Z",
        "currency": "USD",
        "node_hours": {"fern-1": 10.0, "fern-2": 2.5},
        "hourly": {"fern-1": 2.0, "fern-2": None},
        "amount": 20.0,
        "unknown": ["fern-2"],
        "budget": {"amount": 25.0, "hours": None},
        "state": "warned",
    }
    lines = cost.told(cost.read_report(raw))
    assert "fern-2   2.50   ?      ?" in lines[0]
    assert lines[1].startswith("spent: at least 20.00 USD since 2026-01-01")
    assert lines[2] == "budget: 80 % of 25.00 USD; 2 h 30 min are left if what is on stays on"
    assert lines[3].startswith("warned")
    assert "no price is known for fern-2" in lines[4]
    assert cost.told(cost.read_report({}))[-1] == "no budget is set"
    hours = {**raw, "budget": {"hours": 25.0}, "on": []}
    assert cost.told(cost.read_report(hours, "fern-2"))[2] == "budget: 40 % of 25 node-hours"


def test_a_head_without_a_report_says_why() -> None:
    old = Result(2, "", "node.pyz: error: argument command: invalid choice: 'guard'")
    with pytest.raises(DtoError, match="bring it up to date"):
        cost.report_in(old, "h")
    with pytest.raises(DtoError, match="no report of its costs: boom"):
        cost.report_in(Result(1, "", "boom"), "h")
    assert cost.report_in(Result(0, '{"amount": 1}', ""), "h") == {"amount": 1}


def test_jobs_that_would_not_leave_are_named() -> None:
    assert retire_command(60)[-5:] == ["{}", "--why", "down", "--limit", "60"]
    assert problems_of(Result(0, "", ""), ["a"]) == []
    said = "job 7 is asked to save\nerror: job 8 still runs on n1\nerror: job 8 still runs on n1\n"
    assert problems_of(Result(123, "", said), ["a"]) == ["job 8 still runs on n1"]
    assert problems_of(Result(1, "", "sudo: a password is required"), ["a"]) == [
        "sudo: a password is required"
    ]
    assert problems_of(Result(1, "", ""), ["a", "b"]) == ["2 nodes could not be emptied"]
