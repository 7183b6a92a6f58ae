"""The smallest pipeline, of one stage: it needs no other rank, and refuses what the rest do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dto.errors import ConfigError
from dto.runtime.pipeline import Pipeline

SCHEDULES = ("gpipe", "1f1b", "interleaved")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_stage_equals_no_pipeline(schedule: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.arange(7) % 2
    loss = nn.functional.cross_entropy(model(x), y)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    pipeline = Pipeline(model, 3, schedule, loss=nn.functional.cross_entropy)
    assert pipeline.step(x, y) == pytest.approx(loss.item(), rel=1e-12)
    for parameter, gradient in zip(pipeline.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


def test_what_a_pipeline_cannot_do_is_refused_at_once() -> None:
    model, loss = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), nn.functional.mse_loss
    with pytest.raises(ConfigError, match="no pipeline backend 'jax': use one of dto, torch"):
        Pipeline(model, 2, loss=loss, backend="jax")
    with pytest.raises(ConfigError, match="backend torch needs 2 stages"):
        Pipeline(model, 2, loss=loss, backend="torch")
    with pytest.raises(ConfigError, match="1 costs for 2 layers"):
        Pipeline(model, 2, loss=loss, costs=[1.0])
    with pytest.raises(ConfigError, match="a batch of 1 cannot be cut into 2 micro-batches"):
        Pipeline(model, 2, loss=loss).step(torch.ones(1, 2), torch.ones(1, 2))


def test_a_parameter_outside_all_stages_is_named() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.forgotten = nn.Linear(2, 2), nn.Linear(2, 2)

        def pipeline_stages(self) -> list[nn.Module]:
            return [self.body]

    with pytest.raises(ConfigError, match="leaves out forgotten.weight, forgotten.bias"):
        Pipeline(Forgetful(), 2, loss=nn.functional.mse_loss)


def test_a_layer_that_changes_its_input_cannot_be_computed_again() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
    pipeline = Pipeline(model, 1, loss=nn.functional.mse_loss, checkpoint_activations=True)
    with pytest.raises(ConfigError, match="ReLU changes its input.*make it inplace=False"):
        pipeline.step(torch.ones(2, 2), torch.ones(2, 2))
    assert pipeline.evaluate(torch.ones(2, 2), torch.ones(2, 2))[0] > 0
