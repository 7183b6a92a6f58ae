"""A recipe's values are checked at once; what cannot be is refused in one line that says why."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn, optim

from dto.errors import ConfigError, UsageError
from dto.runtime.fits import check_fit
from dto.runtime.recipe import Recipe, recipe_of


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"implementation": "jax"}, "implementation is 'jax': use one of dto, torch"),
        ({"precision": "fp8"}, "precision is 'fp8': use one of fp32, bf16, fp16"),
        ({"schedule": "zb"}, "schedule is 'zb': use one of gpipe, 1f1b, interleaved"),
        ({"accumulation_steps": 0}, "accumulation_steps is 0: give a whole number"),
        ({"accumulation_steps": None}, "accumulation_steps is None: give a whole number"),
        ({"accumulation_steps": True}, "accumulation_steps is True: give a whole number"),
        ({"micro_batches": 2.5}, "micro_batches is 2.5: give a whole number"),
        ({"clip_grad_norm": 0}, "clip_grad_norm is 0: give more than 0"),
        ({"clip_grad_norm": "1"}, "clip_grad_norm is '1': give more than 0"),
        ({"communication": "star"}, "communication is 'star': use one of"),
        ({"sequence_parallel": 1}, "sequence_parallel is 1: give True or False"),
        ({"activation_checkpointing": "yes"}, "activation_checkpointing is 'yes': give True or"),
        ({"deterministic": 1}, "deterministic is 1: give True or False"),
        ({"compile": "max-autotune"}, "compile is 'max-autotune': give True or torch.compile's"),
    ],
)
def test_a_value_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        recipe_of(options)
    assert "\n" not in str(refusal.value)


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="has no option accumulate: .* accumulation_steps, "):
        recipe_of({"accumulate": 2})


@pytest.mark.parametrize(
    ("options", "world", "words"),
    [
        ({"strategy": "zero3", "communication": "ring"}, 2, "zero3 has none; leave it out"),
        ({"strategy": "pipeline", "precision": "fp16"}, 2, "pipeline has no gradient scaler"),
        ({"strategy": "ps", "implementation": "torch"}, 2, "torch has no parameter server"),
        ({"strategy": "zero3", "compile": True}, 2, "torch.compile does not go with zero3"),
        ({"strategy": "pipeline", "compile": {}}, 2, "does not go with ddp.pipeline"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, Any], world: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        recipe_of(options).layout(world)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "tensor", "ps"])
def test_what_has_a_forward_of_its_own_may_be_compiled(strategy: str) -> None:
    assert recipe_of({"strategy": strategy, "compile": True}).layout(2).mesh.size == 2


@pytest.mark.parametrize(
    "options", [{"accumulation_steps": 2}, {"precision": "bf16"}, {"clip_grad_norm": 1.0}]
)
def test_what_a_train_step_fn_would_ignore_is_refused(options: dict[str, Any]) -> None:
    words = f"so {next(iter(options))} would have no effect"
    with pytest.raises(UsageError, match=words):
        check_fit(recipe_of(options), lambda **_: {"loss": 0.0}, None, "epoch", {})
    check_fit(recipe_of(options), None, None, "epoch", {})


def test_what_only_a_train_step_fn_could_use_is_refused() -> None:
    with pytest.raises(UsageError, match="fit got alpha, which only a train_step_fn can use"):
        check_fit(Recipe(), None, None, "epoch", {"alpha": 1})


def test_a_schedule_steps_after_epochs_or_steps() -> None:
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ConfigError, match="scheduler_every is 'batch': use one of epoch, step"):
        check_fit(Recipe(), None, None, "batch", {})
    with pytest.raises(UsageError, match="ReduceLROnPlateau follows the metrics of epochs"):
        check_fit(Recipe(), None, plateau, "step", {})
    check_fit(Recipe(), None, plateau, "epoch", {})
