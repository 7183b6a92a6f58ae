"""SLURM's own words about nodes and jobs, read as they are; and what the doctor makes of hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dto.cluster.doctor import Examined, judge_host, judge_node
from dto.cluster.inventory import parse_record
from dto.cluster.status import ask, count_gpus, parse_nodes, parse_queue, tables
from dto.errors import ClusterError
from dto.remote.local import LocalHost

NODES = (
    "NodeName=n1 Arch=x86_64 CoresPerSocket=1 CPUAlloc=2 CPUTot=8 CPULoad=0.05 "
    "Gres=gpu:h100:2(S:0-1),shard:4 GresUsed=gpu:h100:1(IDX:0),shard:0 NodeAddr=10.0.0.2 "
    "RealMemory=1000 State=MIXED+DYNAMIC_NORM Partitions=gpu,all "
    "Reason=dto: no room on /var, only 3 MiB [root@2026-01-02T03:04:05]\n"
    "NodeName=n2 CPUAlloc=0 CPUTot=2 NodeAddr=10.0.0.3 RealMemory=900 State=DOWN*+DYNAMIC_NORM\n"
)


def test_nodes_are_read_with_gpus_and_reasons() -> None:
    first, second = parse_nodes(NODES)
    assert (first.name, first.state, first.cpus, first.cpus_used) == ("n1", "mixed", 8, 2)
    assert (first.gpus, first.gpus_used, first.partitions) == (2, 1, ("gpu", "all"))
    assert first.reason == "dto: no room on /var, only 3 MiB"
    assert first.takes_jobs and not second.takes_jobs
    assert (second.state, second.gpus, second.partitions) == ("down*", 0, ())
    assert parse_nodes("No nodes in the system\n") == ()


@pytest.mark.parametrize(
    ("gres", "count"),
    [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1),gpu:h100:1", 5), ("", 0), ("gpu", 0)],
)
def test_gpus_are_counted(gres: str, count: int) -> None:
    assert count_gpus(gres) == count


def test_a_jobs_name_may_hold_anything() -> None:
    (job,) = parse_queue("7|gpu|me|RUNNING|1:02|2|n[1-2]|a|b c\n")
    assert (job.id, job.name, job.why) == ("7", "a|b c", "n[1-2]")


def test_a_machine_without_slurm_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no SLURM on here"):
        ask(LocalHost("here"))


RECORD = parse_record(
    {
        "name": "lab",
        "head": {"name": "head", "address": "10.0.0.1"},
        "nodes": [{"name": "n1", "address": "10.0.0.2"}],
    },
    "test",
)
FINE = {
    "sudo": "yes",
    "munge": "yes",
    "shared": "yes",
    "disk /": "9000",
    "unit slurmd": "active enabled",
    "unit slurmctld": "active enabled",
}


def test_a_host_in_order_has_no_advice() -> None:
    for name in ("head", "n1"):
        findings = judge_host(RECORD, name, Examined(FINE, 0.0))
        assert all(found.is_fine and not found.advice for found in findings)
    assert {f.subject for f in judge_host(RECORD, "n1", Examined(FINE, 0.0))} >= {"slurmd"}


@pytest.mark.parametrize(
    ("subject", "change", "skew"),
    [
        ("sudo", {"sudo": "no"}, 0.0),
        ("clock", {}, 400.0),
        ("disk", {"disk /var": "3"}, 0.0),
        ("munge", {"munge": "no"}, 0.0),
        ("shared", {"shared": "read-only"}, 0.0),
        ("slurmd", {"unit slurmd": "inactive disabled"}, 0.0),
    ],
)
def test_what_is_wrong_comes_with_what_to_do(
    subject: str, change: dict[str, str], skew: float
) -> None:
    findings = judge_host(RECORD, "n1", Examined({**FINE, **change}, skew))
    (wrong,) = [found for found in findings if not found.is_fine]
    assert wrong.subject == subject and wrong.advice


def test_our_own_drain_is_told_from_an_operators() -> None:
    ours, theirs = (
        judge_node("n1", parse_nodes(f"NodeName=n1 State=IDLE+DRAIN Reason={reason}")[0])
        for reason in ("dto: munge", "new fan")
    )
    assert "comes back by itself" in ours.advice and "state=resume" in theirs.advice
    assert judge_node("n1", None).advice


def test_tables_hold_every_node_and_job() -> None:
    from dto.cluster.status import ClusterStatus

    status = ClusterStatus("lab", "head", "22.05", ("all",), parse_nodes(NODES), ())
    (head, nodes), (_, jobs) = tables(status)
    assert len(head) == len(nodes[0]) and not jobs
    assert status.to_json()["nodes"][0]["name"] == "n1"
