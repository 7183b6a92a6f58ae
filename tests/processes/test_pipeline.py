"""Real ranks, each with a stage of the model, compute what one process computes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dto.runtime.pipeline.schedule import make_plan, peak_in_flight
from tests.helpers import PROGRAMS
from tests.processes.pool import pool
from tests.processes.ranks import run_ranks

pytestmark = [pytest.mark.process, pytest.mark.ranks]
Results = list[dict[str, Any]]
SCHEDULES = ("gpipe", "1f1b", "interleaved")
NUMBERS = ("sgd torch.float64", "adamw torch.float64", "adamw torch.float32")


@pytest.fixture(scope="module")
def results() -> Results:
    """Three ranks run every case once; by rank."""
    outputs = run_ranks("gloo", 3, "-W", "error", PROGRAMS / "pipeline.py")
    return [json.loads(out.splitlines()[-1]) for out in outputs]


def matrix(results: Results, stages: int) -> Results:
    return [rank[f"{stages} stages"] for rank in results[:stages]]


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_stages_equal_one_process_after_uneven_batches(
    results: Results, stages: int, schedule: str, numbers: str
) -> None:
    tolerance = 1e-10 if "float64" in numbers else 1e-5
    for rank in matrix(results, stages):
        parameters, losses, *_ = rank[f"{schedule} {numbers}"]
        assert parameters <= tolerance
        assert losses <= tolerance


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_all_schedules_give_the_same_bits_and_every_parameter(
    results: Results, stages: int, numbers: str
) -> None:
    whole: list[dict[str, str]] = []
    for schedule in SCHEDULES:
        parts = [rank[f"{schedule} {numbers}"][2] for rank in matrix(results, stages)]
        whole.append({name: bits for part in parts for name, bits in part.items()})
        assert sum(map(len, parts)) == 10  # each parameter on one stage
    assert len(whole[0]) == 10
    assert whole[0] == whole[1] == whole[2]


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_stage_holds_no_more_activations_than_its_plan_says(
    results: Results, stages: int, schedule: str
) -> None:
    plan = make_plan(stages, 6, schedule, 2 if schedule == "interleaved" else 1)
    held = [rank[f"{schedule} sgd torch.float64"][3] for rank in matrix(results, stages)]
    assert held == [peak_in_flight(actions) for actions in plan]
    if schedule == "1f1b":
        assert held == [stages - stage for stage in range(stages)]


@pytest.mark.parametrize("number", range(len(SCHEDULES)), ids=SCHEDULES)
def test_tied_weights_get_both_gradients_and_stay_equal(results: Results, number: int) -> None:
    found = [rank["tied"][number] for rank in results]
    assert all(distance <= 1e-10 for distance, _ in found)
    copies = [bits for _, bits in found if bits]
    assert len(copies) == 2 and copies[0] == copies[1]


def test_torchs_own_pipeline_gives_the_same_under_the_same_interface(results: Results) -> None:
    for rank in results:
        assert max(rank["torch"]) <= 1e-10


def test_a_stage_may_begin_by_changing_its_input_in_place(results: Results) -> None:
    for rank in results:
        distance, begins = rank["in place"]
        assert distance <= 1e-10 and begins == [0, 1, 3]


def test_a_frozen_first_stage_gets_no_gradients(results: Results) -> None:
    assert [max(rank["frozen"]) <= 1e-12 for rank in results] == [True] * 3


def test_all_ranks_cut_where_the_first_one_measured(results: Results) -> None:
    first, *others = [rank["measured"] for rank in results]
    assert others == [first, first]


def test_what_cannot_be_is_refused_on_every_rank(results: Results) -> None:
    for rank in results:
        assert "3 stages for 1 layers" in rank["few layers"]
        assert "a batch of 5 cannot be cut into 6 micro-batches" in rank["small batch"]
        assert "rank 2 has another pipeline" in rank["other model"]


def test_another_batch_and_a_lost_stage_are_errors_that_name_the_stage(results: Results) -> None:
    first, second, third = [rank["other batch"] for rank in results]
    assert third.startswith("stage 2 got another batch than stage 1")
    assert second.startswith("stage 1 lost stage 2 (rank 2) at the gradient of micro-batch 0")
    assert first.startswith("stage 0 lost stage 1 (rank 1) at the gradient of micro-batch 0")


@pytest.mark.parametrize("stages", [2, 3])
def test_an_evaluation_of_any_size_equals_one_process_on_every_stage(stages: int) -> None:
    for rank in pool("gloo").run("pipeline.evaluates", stages):
        assert max(rank) <= 1e-10


@pytest.mark.parametrize(("optimizer", "schedule"), [("sgd", "1f1b"), ("adamw", "interleaved")])
def test_pipelines_side_by_side_share_uneven_batches_as_one_process(
    optimizer: str, schedule: str
) -> None:
    found = pool("gloo").run("pipeline.grid", 4, optimizer=optimizer, schedule=schedule)
    assert max(max(rank) for rank in found) <= 1e-10


def test_an_optimizer_over_the_whole_model_keeps_what_the_stage_has() -> None:
    found = pool("gloo").run("pipeline.adopts", 3)
    first, second = ["body.0.weight", "body.0.bias"], ["body.2.weight", "body.2.bias"]
    embed = ["embed.weight"]
    assert [rank["groups"] for rank in found] == [[first, embed], [second, []], [[], embed]]
    assert [rank["states"] for rank in found] == [sorted(first + embed), second[::-1], embed]
    for rank in found:
        assert rank["rates"] == [0.5, 0.25] and rank["is in place"] and rank["is whole"]
        assert all(rank["shapes"]) and rank["sums"] == found[0]["sums"]
        everything = [*embed, *first, *second]
        mine = [name for group in rank["groups"] for name in group]
        assert rank["gone"] == [name for name in everything if name not in mine]


def test_a_checkpoint_learns_which_ranks_hold_what() -> None:
    found = pool("gloo").run("pipeline.adopts", 3)
    tied = ["embed.weight", [13, 6], [0, 2]]
    assert [rank["held"] for rank in found] == [
        [tied, ["body.0.weight", [6, 6], []], ["body.0.bias", [6], []]],
        [["body.2.weight", [6, 6], []], ["body.2.bias", [6], []]],
        [tied],
    ]
    assert [rank["grid"][0] for rank in found] == [[0, 2, 3, 5], [1, 4], [0, 2, 3, 5]]
    assert [rank["buffers"] for rank in found] == [[], ["body.1.calls"], ["body.3.calls"]]


def test_an_optimizer_with_a_parameter_of_its_own_is_refused() -> None:
    for text in pool("gloo").run("pipeline.strange_parameter", 2):
        assert text.startswith("the optimizer has a parameter of shape (2, 5) that is not the")


def test_a_stage_gives_back_the_memory_of_the_others() -> None:
    assert min(pool("gloo").run("pipeline.memory", 4)) > 0.6  # of 0.75


def test_layers_computed_again_give_the_same_bits_in_less_memory() -> None:
    for rank in pool("gloo").run("pipeline.computes_again", 2):
        assert rank["same"] and rank["kept"] < 0.5


def test_stages_under_autocast_equal_one_process_under_it() -> None:
    for gradients, loss, is_coarser, types, right in pool("gloo").run("pipeline.autocast", 2):
        assert max(gradients, loss) <= 1e-6
        assert is_coarser and types == ["torch.float32"] and 0 <= right <= 1


def test_a_stage_waits_for_another_no_longer_than_it_was_told() -> None:
    late = "lost stage 0 (rank {}) at the batch message: no answer within 1 s"
    found = pool("gloo").run("pipeline.too_late", 4)
    assert found == ["", f"stage 1 {late.format(0)}", "", f"stage 1 {late.format(2)}"]


def test_stages_that_do_different_things_are_told() -> None:
    found = pool("gloo").run("pipeline.other_work", 4)
    for first, second in (found[:2], found[2:]):
        assert second.startswith("stage 1 got another batch than stage 0: here evaluating")
        assert "no answer within 1 s" in first
