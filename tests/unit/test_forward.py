"""What takes the place of a forward changes memory or speed, and neither names nor numbers."""

from __future__ import annotations

import copy
import os
import shutil
from typing import Any

import pytest
import torch
from torch import nn

from dto.errors import ConfigError
from dto.runtime.forward import (
    Compiled,
    Recomputed,
    arrange_forward,
    compile_options,
    find_blocks,
)
from dto.runtime.mesh import lay_out
from dto.runtime.recipe import Recipe
from tests.helpers import cannot

ALONE = lay_out("ddp", None, 1)
AGAIN = Recipe(activation_checkpointing=True)


class Block(nn.Module):
    """Has all that a second computation could do twice: statistics, and chance."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.4), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.layers(x)
        return out


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(3)), nn.Linear(6, 2))


def train(model: nn.Module, steps: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number in range(steps):
        optimizer.zero_grad()
        model(torch.randn(7 - number, 6)).square().mean().backward()
        optimizer.step()
    return dict(model.state_dict())


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[n], right[n]) for n in left)


def test_computing_again_changes_no_bit_and_no_name() -> None:
    model = net()
    arrange_forward(model, AGAIN, ALONE)
    assert same(train(model), train(net()))


def test_blocks_are_computed_twice_in_training_and_once_without_gradients() -> None:
    model, calls = net(), [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    model[0].layers[0].register_forward_pre_hook(count)
    arrange_forward(model, AGAIN, ALONE)
    arrange_forward(model, AGAIN, ALONE)  # a second fit
    model(torch.ones(2, 6)).sum().backward()
    assert calls == [2]
    with torch.no_grad():
        model(torch.ones(2, 6))
    assert calls == [3]


def test_a_copy_computes_with_its_own_parameters() -> None:
    model = net().eval()
    arrange_forward(model, AGAIN, ALONE)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert model(torch.ones(1, 6)).abs().sum() > 0
    assert other(torch.ones(1, 6)).abs().sum() == 0


def test_blocks_are_the_outermost_ones() -> None:
    model = net()
    assert find_blocks(model) == [model[0], model[1], model[2]]
    flat = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert find_blocks(flat) == [flat[0], flat[2]]
    twice = nn.Sequential(model[0], model[0])
    assert find_blocks(nn.ModuleDict({"inner": twice})) == [model[0]]


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="finds no blocks: .* put the model's layers into one"):
        arrange_forward(nn.Linear(2, 2), AGAIN, ALONE)


def test_a_block_that_overwrites_its_input_is_refused() -> None:
    class Careless(nn.Sequential):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Careless(nn.ReLU(inplace=True), nn.Linear(2, 2)))
    arrange_forward(model, AGAIN, ALONE)
    with pytest.raises(ConfigError, match="Careless changes its input in place"):
        model(torch.ones(1, 2))


def test_a_pipeline_computes_again_by_itself() -> None:
    model = net()
    arrange_forward(model, AGAIN, lay_out("pipeline", None, 2))
    assert not any(isinstance(block.forward, Recomputed) for block in model)


# torch's own imports of the compiler use what torch has deprecated
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("again", [False, True], ids=["plain", "computed again"])
def test_a_compiled_forward_computes_the_same_and_keeps_hooks_outside(again: bool) -> None:
    torch._dynamo.reset()
    model, seen = net().double(), []
    for block in model[:3]:
        block.layers[2].p = 0.0  # the compiler draws other numbers
    reference = copy.deepcopy(model)
    model.register_forward_pre_hook(lambda *_: seen.append(torch.compiler.is_compiling()))
    options = {"backend": "aot_eager"}
    arrange_forward(model, Recipe(compile=options, activation_checkpointing=again), ALONE)
    for one in (model, reference):
        torch.manual_seed(2)
        one(torch.randn(5, 6, dtype=torch.float64)).square().mean().backward()
    for mine, wanted in zip(model.parameters(), reference.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.allclose(mine.grad, wanted.grad, rtol=1e-10, atol=1e-14)
    for name, buffer in model.named_buffers():
        assert torch.allclose(buffer, reference.get_buffer(name), rtol=1e-10)
    assert isinstance(model.forward, Compiled) and seen == [False]
    assert list(model.state_dict()) == list(reference.state_dict())


@pytest.mark.timeout(300)  # the compiler takes long on a machine that has other work
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_default_compiler_computes_the_same() -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        cannot("needs a C++ compiler (Debian: g++)")
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    wanted = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    arrange_forward(model, Recipe(compile=True), ALONE)
    found = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(found, wanted, strict=True))


def test_options_of_torch_compile_are_handed_on_or_refused() -> None:
    with pytest.raises(ConfigError, match="torch.compile has no option speed: it takes fullgraph"):
        compile_options(net(), {"speed": 11})
    options = {"backend": "eager", "dynamic": True}
    assert compile_options(net(), options) == options


def test_a_missing_compiler_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(ConfigError, match="there is no /nowhere/c.*: install one, or leave"):
        compile_options(net(), True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_that_came_compiled_is_refused_where_it_could_not_be_compiled() -> None:
    model = torch.compile(net(), backend="eager")
    with pytest.raises(ConfigError, match="torch.compile does not go with zero3"):
        arrange_forward(model, Recipe(), lay_out("zero3", None, 2))
    arrange_forward(model, Recipe(compile=True), ALONE)
    assert not isinstance(model.forward, Compiled)
