"""A trainer's steps on several ranks: equal to one process, and decided by all together."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processes.pool import pool

pytestmark = [pytest.mark.process, pytest.mark.ranks, pytest.mark.timeout(110)]

RECIPES: list[dict[str, Any]] = [
    {},
    {"accumulation_steps": 2},
    {"accumulation_steps": 5, "clip_grad_norm": 0.3},
    {"activation_checkpointing": True, "accumulation_steps": 2},
    {"activation_checkpointing": True, "strategy": "zero2"},
    {"activation_checkpointing": True, "strategy": "zero3", "accumulation_steps": 2},
    {"clip_grad_norm": 0.3, "strategy": "zero3"},
]


@pytest.mark.parametrize("world", [2, 3])
def test_steps_by_any_recipe_equal_one_process(world: int) -> None:
    found = pool("gloo").run("trainer.fits", world, recipes=RECIPES)
    for number, recipe in enumerate(RECIPES):
        assert all(rank[number] <= 1e-12 for rank in found), recipe


def test_compiled_steps_equal_one_process() -> None:
    compile = {"backend": "eager"}
    recipes = [{"compile": compile}, {"compile": compile, "strategy": "zero2"}]
    for rank in pool("gloo").run("trainer.fits", 2, recipes=recipes):
        assert max(rank) <= 1e-12


@pytest.mark.parametrize(("world", "strategy"), [(2, "ddp"), (3, "zero1"), (3, "zero2")])
def test_an_overflow_on_one_rank_skips_the_step_on_all(world: int, strategy: str) -> None:
    found = pool("gloo").run("trainer.overflows", world, strategy=strategy)
    assert all(rank == found[0] for rank in found)
    assert (found[0]["skipped"], found[0]["steps"], found[0]["scale"]) == (True, 7, 2.0**15)


def test_one_rank_that_wants_to_end_ends_all() -> None:
    found = pool("gloo").run("trainer.stops", 3)
    assert all(rank == found[0] for rank in found)
    assert found[0]["epochs"] == [0, 1] and len(found[0]["losses"]) == 8


@pytest.mark.parametrize("world", [2, 4])
def test_clipping_by_hand_looks_at_all_gradients(world: int) -> None:
    for rank in pool("gloo").run("trainer.clips_by_hand", world):
        assert max(map(abs, rank)) <= 1e-12
