"""The verdict names the first real cause, never a victim."""

from __future__ import annotations

import signal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dto.runs.verdict import CHECKPOINTED, Ending, classify


def ended(rank: int, code: int | None = 0, **fields: Any) -> Ending:
    given = {"node": f"n{rank}", "generation": 0, "signal": None, "t": 100.0 + rank, **fields}
    return Ending(rank=rank, code=code, **given)


PEER_CLOSED = {
    "error_type": "RuntimeError",
    "message": "[gloo] Connection closed by peer [127.0.0.1]",
}
HOROVOD = {"error_type": "horovod.common.exceptions.HorovodInternalError", "message": "allreduce"}


def test_all_zero_is_completed() -> None:
    verdict = classify([ended(0), ended(1)])
    assert verdict.ok and verdict.exit_code == 0 and verdict.kind == "completed"


def test_the_exiting_rank_is_blamed_though_its_victims_were_seen_first() -> None:
    verdict = classify(
        [
            ended(0, 1, t=100.0, error_t=99.9, **PEER_CLOSED),
            ended(1, 1, t=100.1, error_t=99.95, **HOROVOD),
            ended(2, 3, t=100.2),
        ]
    )
    assert (verdict.rank, verdict.exit_code, verdict.node) == (2, 3, "n2")
    assert verdict.victims == [0, 1]
    assert "rank 2 (node n2) exited 3" in verdict.cause


def test_a_signal_is_128_plus_its_number() -> None:
    verdict = classify([ended(0, None, signal=int(signal.SIGSEGV)), ended(1, 1, **HOROVOD)])
    assert (verdict.rank, verdict.exit_code, verdict.kind) == (0, 139, "signal")
    assert "SIGSEGV" in verdict.cause


def test_ranks_that_we_killed_are_never_blamed() -> None:
    verdict = classify(
        [
            ended(0, None, signal=9, killed=True, t=1.0),
            ended(1, 1, t=2.0, error_type="ValueError", message="bad batch", last_step=7),
        ]
    )
    assert verdict.rank == 1
    assert verdict.cause == "rank 1 (node n1) exited 1 after step 7: ValueError: bad batch"


def test_of_several_real_errors_the_first_to_show_is_the_cause() -> None:
    verdict = classify(
        [
            ended(0, 1, t=10.0, error_t=5.0, error_type="KeyError", message="'x'"),
            ended(1, 1, t=9.0, error_t=6.0, error_type="ValueError", message="y"),
        ]
    )
    assert verdict.rank == 0 and verdict.error_type == "KeyError"


def test_a_rank_that_left_early_with_zero_is_blamed_for_lost_peers() -> None:
    verdict = classify([ended(0, 0, t=1.0), ended(1, 1, t=3.0, error_t=2.0, **PEER_CLOSED)])
    assert verdict.kind == "peer-lost" and verdict.rank == 0 and not verdict.ok
    assert verdict.exit_code == 1


def test_a_lost_node_explains_victims_but_not_a_rank_s_own_error() -> None:
    victim = ended(0, 1, **PEER_CLOSED)
    lost = classify([victim], lost_nodes=["n7"])
    assert (lost.kind, lost.node) == ("agent-lost", "n7")
    own = classify([victim, ended(1, 4)], lost_nodes=["n7"])
    assert (own.kind, own.rank) == ("error", 1)


def test_ranks_that_checkpointed_on_request_are_no_failure() -> None:
    verdict = classify([ended(0, CHECKPOINTED), ended(1, CHECKPOINTED)])
    assert (verdict.kind, verdict.exit_code) == ("stopped", 85)


def test_a_runtime_error_of_its_own_is_not_taken_for_a_victim_s() -> None:
    own = {"error_type": "RuntimeError", "message": "mat1 and mat2 shapes cannot be multiplied"}
    verdict = classify([ended(0, 1, t=1.0, **PEER_CLOSED), ended(1, 1, t=2.0, **own)])
    assert verdict.rank == 1


endings = st.lists(
    st.builds(
        Ending,
        rank=st.integers(0, 7),
        node=st.just("n"),
        generation=st.just(0),
        code=st.sampled_from([0, 1, 3, 85, None]),
        signal=st.sampled_from([None, 9, 15, 11]),
        t=st.floats(0, 10),
        error_type=st.sampled_from(["", "ValueError", "HorovodInternalError", "RuntimeError"]),
        message=st.sampled_from(["", "Connection closed by peer", "oops"]),
        killed=st.booleans(),
    ),
    max_size=8,
)


@given(endings)
def test_a_verdict_is_ok_only_if_nobody_failed_and_blames_no_victim_beside_a_cause(
    rows: list[Ending],
) -> None:
    verdict = classify(rows)
    abnormal = [row for row in rows if row.is_abnormal]
    assert (verdict.exit_code in (0, CHECKPOINTED)) == (not abnormal)
    causes = {row.rank for row in abnormal if not row.is_victim}
    if causes:
        assert verdict.rank in causes
        assert verdict.exit_code != 143
