"""What the node programs read out of SLURM's answers, and what they decide on it."""

from __future__ import annotations

from datetime import datetime

import pytest

from dto.cluster.node import configuration, head, health, retire, slurm, verify

LINE = (
    "NodeName=n1 Arch=x86_64 Gres=gpu:h100:2 NodeAddr=10.0.0.2 NodeHostName=n1 "
    "OS=Linux 6.1 #1 SMP RealMemory=1 State=IDLE+DRAIN+DYNAMIC_NORM ThreadsPerCore=1 "
    "Reason=dto: health: no /dev/nvidia1 State=odd [root@2026-01-01T00:00:00]"
)


def state(flags: str, reason: str = "") -> slurm.NodeState:
    return slurm.NodeState("n1", "10.0.0.2", frozenset(flags.split("+")), reason)


def test_a_node_is_read_whatever_its_reason_says():
    node = slurm.parse_node(LINE)
    assert (node.name, node.address, node.gpus) == ("n1", "10.0.0.2", 2)
    assert node.flags == {"IDLE", "DRAIN", "DYNAMIC_NORM"}
    assert node.reason == "dto: health: no /dev/nvidia1 State=odd"
    assert node.is_drained and node.answers and node.has_reason("health", "gate")


@pytest.mark.parametrize("shown", ["DOWN*", "IDLE*+DYNAMIC_NORM", "DOWN+DRAIN*"])
def test_a_node_that_is_silent_does_not_answer(shown: str):
    assert not slurm.parse_node(f"NodeName=n1 State={shown}").answers


def test_reasons_are_one_plain_line():
    assert slurm.reason_text('a\n"b"=c; d') == "a b c; d"
    assert len(slurm.reason_text("x" * 999)) == 240


def test_jobs_are_read_and_ours_known():
    ours, other = slurm.parse_jobs("7|PENDING|BeginTime|dto:run|with bar\n8|RUNNING|None|\n\n")
    assert ours.is_ours and ours.comment == "dto:run|with bar"
    assert not other.is_ours


def test_health_drains_and_takes_back_only_its_own_drain():
    ill = health.decide(state("IDLE"), ["no GPU"], 5)
    assert (ill.action, ill.passes, ill.reason) == ("drain", 0, "dto: health: no GPU")
    drained = state("IDLE+DRAIN", "dto: health: no GPU")
    assert health.decide(drained, ["no GPU"], 1).action == "nothing"
    assert health.decide(drained, [], 0).action == "nothing"
    assert health.decide(drained, [], 1).action == "resume"


@pytest.mark.parametrize(
    "reason", ["bad fan", "dto: removing", "dto: verify: slow", "health: x", ""]
)
def test_health_leaves_every_other_drain_alone(reason: str):
    assert health.decide(state("IDLE+DRAIN", reason), [], 9).action == "nothing"


NOW = datetime(2026, 1, 1, 12, 0, 0)


@pytest.mark.parametrize(
    ("shown", "parked"),
    [
        ("Reason=BeginTime Restarts=1 StartTime=2026-01-01T12:00:20", True),
        ("Reason=BeginTime Restarts=0 StartTime=2026-01-01T12:00:20", False),  # --begin
        ("Reason=BeginTime Restarts=1 StartTime=2026-01-02T12:00:00", False),  # a person's wish
        ("Reason=Resources Restarts=1 StartTime=2026-01-01T12:00:20", False),
        ("Reason=BeginTime Restarts=1 StartTime=Unknown", False),
        ("", False),
    ],
)
def test_only_what_slurm_itself_parked_is_hurried(shown: str, parked: bool):
    assert head.is_parked(shown, NOW) is parked


@pytest.mark.parametrize(
    ("comment", "script", "batch", "hears"),
    [
        ("dto:x", "", 1, True),
        ("", "trap 'save' USR1", 1, True),
        ("", "#SBATCH --signal=B:SIGUSR1@60", 1, True),
        ("", "python train.py", 1, False),
        ("dto:x", "", 0, False),
    ],
)
def test_only_jobs_that_listen_are_signalled(comment: str, script: str, batch: int, hears: bool):
    shown = f"JobId=1 Requeue=1 BatchFlag={batch}"
    occupant = retire.parse_occupant(slurm.Job("1", "RUNNING", "None", comment), shown, script)
    assert occupant.hears is hears
    assert occupant.may_requeue is bool(batch)


def test_an_address_where_nobody_listens_is_dead():
    assert retire.is_dead("127.0.0.1", 9)


def test_verify_leaves_busy_dead_and_peoples_nodes_alone():
    nodes = [
        slurm.NodeState("a", "1", frozenset({"IDLE"}), ""),
        slurm.NodeState("b", "2", frozenset({"MIXED"}), ""),
        slurm.NodeState("c", "3", frozenset({"IDLE", "DRAIN"}), "bad fan"),
        slurm.NodeState("d", "4", frozenset({"IDLE", "DRAIN"}), "dto: verify: slow"),
        slurm.NodeState("e", "5", frozenset({"DOWN", "NOT_RESPONDING"}), "gone"),
    ]
    chosen, left_out = verify.choose(nodes, [])
    assert [node.name for node in chosen] == ["a", "d"]
    assert left_out == {
        "b": "is busy with a job", "c": "is drained (bad fan)", "e": "is down (gone)",
    }  # fmt: skip
    assert verify.choose(nodes, ["a", "z"]) == ([nodes[0]], {"z": "is not in SLURM"})


@pytest.mark.parametrize("count", range(8))
def test_pairs_reach_every_node_and_never_one_twice_at_once(count: int):
    names = [f"n{number}" for number in range(count)]
    plan = verify.rounds(names)
    for pairs in plan:
        busy = [name for pair in pairs for name in pair]
        assert len(busy) == len(set(busy))
    reached = {name for pairs in plan for pair in pairs for name in pair}
    assert reached == (set(names) if count > 1 else set())


def test_the_parsers_complaints_count_and_an_absent_controller_does_not():
    said = (
        "scontrol: error: _parse_next_key: Parsing error at unrecognized key: Fooo\n"
        "scontrol: fatal: Unable to process configuration file\n"
        "scontrol: error: slurm_ping: Unable to contact slurm controller (connect failure)\n"
    )
    assert configuration.complaint(said) == (
        "_parse_next_key: Parsing error at unrecognized key: Fooo; "
        "Unable to process configuration file"
    )
    assert configuration.complaint("Slurmctld(primary) at head is DOWN") == ""


@pytest.mark.parametrize(
    ("flags", "reason", "lost"),
    [
        ("DOWN+DYNAMIC_NORM+NOT_RESPONDING", "Not responding", True),
        ("DOWN+DYNAMIC_NORM", "Not responding", False),
        ("DOWN+NOT_RESPONDING", "a new fan", False),
        ("IDLE+NOT_RESPONDING", "", False),
    ],
)
def test_only_what_slurm_itself_took_down_for_its_silence_is_woken(
    flags: str, reason: str, lost: bool
):
    assert head.is_lost(state(flags, reason)) is lost
