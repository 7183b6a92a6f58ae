"""ZeRO in a world of one: what it refuses, and what it leaves as it was."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dto
from dto.errors import ConfigError, UsageError


def make() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(4, 3)).square().mean().backward()
    optimizer.step()


class Sign(torch.optim.Optimizer):
    """One that torch does not have."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                param.sub_(param.grad.sign(), alpha=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stage": 4}, "ZeRO has no stage 4: use 1, 2 or 3"),
        ({"backend": "jax"}, "ZeRO has no backend 'jax': use one of dto, torch"),
        ({"backend": "torch", "stage": 1}, "for stage 1 use backend dto"),
        ({"backend": "torch"}, "backend torch needs torch.distributed, not local: use backend dto"),
        ({"mixed_precision": torch.float64}, "use torch.bfloat16 or torch.float16"),
        ({"units": ["layers.*"]}, "is named 'layers"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_that_says_what_can(
    options: dict[str, Any], words: str
) -> None:
    model = make()
    with pytest.raises(ConfigError) as error:
        dto.Zero(model, sgd(model), **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def frozen() -> nn.Module:
    return make().requires_grad_(False)


def scattered() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, device="meta"))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (nn.Tanh, "there is nothing to train"),
        (frozen, "thaw one to train it"),
        (scattered, "lie on cpu and meta: move all to one"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(
    build: Callable[[], nn.Module], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        dto.Zero(build(), sgd(make()))


def test_only_optimizers_that_treat_elements_by_themselves_are_taken() -> None:
    model = make()
    with pytest.raises(ConfigError, match="LBFGS looks at whole parameters .* fine are Adadelta"):
        dto.Zero(model, torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ConfigError, match="Sign is unknown: give elementwise=True"):
        dto.Zero(model, Sign(model.parameters()))
    alone = copy.deepcopy(model)
    step(alone, Sign(alone.parameters()))
    optimizer = Sign(model.parameters())
    zero = dto.Zero(model, optimizer, elementwise=True, units=["0", "2"])
    step(model, optimizer)
    zero.unshard()
    assert all(map(torch.equal, model.parameters(), alone.parameters()))


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="make it of model.parameters"):
        dto.Zero(make(), sgd(make()))


@pytest.mark.parametrize("name", ["ASGD", "Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam"])
@pytest.mark.parametrize("stage", [1, 3])
def test_torchs_elementwise_optimizers_step_pieces_as_they_step_parameters(
    name: str, stage: int
) -> None:
    model = make().double()
    alone = copy.deepcopy(model)
    kind = getattr(torch.optim, name)
    theirs, mine = kind(alone.parameters(), lr=0.05), kind(model.parameters(), lr=0.05)
    zero = dto.Zero(model, mine, stage, units=["0", "2"])
    for _ in range(5):
        for net, optimizer in ((alone, theirs), (model, mine)):
            optimizer.zero_grad()
            net(torch.ones(4, 3, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
    zero.unshard()
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_model_and_groups_stay_the_objects_that_they_were() -> None:
    model = make()
    optimizer = sgd(model)
    parameters, groups = list(model.parameters()), optimizer.param_groups
    lists = [group["params"] for group in groups]
    zero = dto.Zero(model, optimizer, units=["0", "2"])
    step(model, optimizer)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert optimizer.param_groups is groups
    assert all(a is b["params"] for a, b in zip(lists, groups, strict=True))
    assert zero.name == "zero3"


def test_copies_and_pickles_of_a_whole_model_are_plain_models() -> None:
    model = make()
    zero = dto.Zero(model, sgd(model), units=["0", "2"])
    x = torch.ones(1, 3)
    with zero.whole():
        wanted = model(x).detach()
        copied, read = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for other in (copied, read):
        assert torch.equal(other(x), wanted)
        step(other, sgd(other))


def test_parameters_of_several_dtypes_are_kept_apart() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double())

    def forward(net: nn.Sequential) -> torch.Tensor:
        return net[1](net[0](torch.ones(4, 3)).double()).square().mean()

    alone = copy.deepcopy(model)
    theirs, mine = sgd(alone), sgd(model)
    zero = dto.Zero(model, mine, 2)
    for net, optimizer in ((alone, theirs), (model, mine)):
        forward(net).backward()
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), alone.parameters()))
    assert {held.tensor.dtype for held in zero.held()} == {torch.float32, torch.float64}


def test_thawing_after_the_layout_is_refused() -> None:
    model = make()
    model[0].requires_grad_(False)
    dto.Zero(model, sgd(model[2]))
    model[0].requires_grad_(True)
    with pytest.raises(UsageError, match="frozen or thawed after"):
        model(torch.ones(1, 3))


def test_no_sync_finds_the_model() -> None:
    model = make()
    zero = dto.Zero(model, sgd(model), 1)
    with dto.no_sync(model):
        model(torch.ones(1, 3)).sum().backward()
    assert zero.take_control() is None


def test_gradients_that_were_stepped_with_and_not_cleared_are_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = make()
    optimizer = sgd(model)
    zero = dto.Zero(model, optimizer)
    for _ in range(2):
        step(model, optimizer)
        optimizer.zero_grad(set_to_none=False)
    with caplog.at_level(logging.WARNING):
        step(model, optimizer)
        assert not caplog.records
        for _ in range(3):
            model.zero_grad()
            model(torch.ones(4, 3)).sum().backward()
            optimizer.step()
    assert len(caplog.records) == 1
    assert "optimizer.zero_grad()" in caplog.text and zero.stage == 3


class Twisted(nn.Module):
    """Returns a view, which its caller changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).t()


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Twisted() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            out = layer(x)
            out += 1.0
            x = out.tanh()
        return x


def test_the_output_of_a_unit_may_be_a_view_that_is_changed_in_place() -> None:
    model = Adder()
    alone = copy.deepcopy(model)
    theirs, mine = sgd(alone), sgd(model)
    zero = dto.Zero(model, mine, units=["layers.*"])
    for _ in range(3):
        for net, optimizer in ((alone, theirs), (model, mine)):
            optimizer.zero_grad()
            net(torch.eye(3)).sum().backward()
            optimizer.step()
    zero.unshard()
    assert all(map(torch.equal, model.parameters(), alone.parameters()))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_trains_alike() -> None:
    model = Adder()
    alone = copy.deepcopy(model)
    theirs, mine = sgd(alone), sgd(model)
    zero = dto.Zero(model, mine, units=["layers.*"])
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        for net, optimizer in ((alone, theirs), (compiled, mine)):
            optimizer.zero_grad()
            net(torch.eye(3)).sum().backward()
            optimizer.step()
    zero.unshard()
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other)
