"""A captured state restores exactly, by name, and refuses what does not fit."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dto.checkpoint.generators import capture_generators, restore_generators
from dto.checkpoint.state import capture, restore
from dto.checkpoint.tree import pack, unpack
from dto.errors import CheckpointError


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.embed(x)))
        return out


class Counting(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.seen: dict[str, Any] = {"calls": 0, "last": torch.zeros(2)}

    def get_extra_state(self) -> dict[str, Any]:
        return self.seen

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = state


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "adam-tensor-lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=3),
    "groups": lambda p: torch.optim.SGD(
        [{"params": (q := list(p))[:1], "lr": 0.5}, {"params": q[1:], "momentum": 0.9}], lr=0.1
    ),
}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randint(0, 7, (6,), generator=torch.Generator().manual_seed(seed))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), x)
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_bit_equal_after_capture_through_json_and_restore(kind: str) -> None:
    torch.manual_seed(0)
    model = Tied()
    optimizer = OPTIMIZERS[kind](model.parameters())
    for seed in range(3):
        _step(model, optimizer, seed)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.5
    tensors, meta = capture(model, optimizer)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    meta = json.loads(json.dumps(meta))

    other = Tied()
    again = OPTIMIZERS[kind](other.parameters())
    restore(other, again, tensors, meta)
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for seed in range(3, 6):
        _step(model, optimizer, seed)
        _step(other, again, seed)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_tied_weights_are_stored_once_and_names_are_global() -> None:
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    _step(model, optimizer, 0)
    tensors, meta = capture(model, optimizer)
    assert "model/embed.weight" in tensors
    assert "model/head.weight" not in tensors
    assert "model/norm.running_mean" in tensors
    assert "optim/embed.weight/exp_avg" in tensors
    assert meta["groups"][0]["params"] == ["embed.weight", "norm.weight", "norm.bias"]


def test_extra_state_of_a_module_travels() -> None:
    model, other = Counting(), Counting()
    model.seen = {"calls": 3, "last": torch.tensor([1.0, 2.0])}
    tensors, meta = capture(model)
    restore(other, None, tensors, json.loads(json.dumps(meta)))
    assert other.seen["calls"] == 3
    assert torch.equal(other.seen["last"], torch.tensor([1.0, 2.0]))


def test_float32_moments_of_bfloat16_weights_keep_their_bits() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(3, 3, bias=False, dtype=torch.bfloat16)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    model, optimizer = build()
    optimizer.state[model.weight]["momentum_buffer"] = torch.tensor([1.2345678])
    tensors, meta = capture(model, optimizer)
    other, again = build()
    restore(other, again, tensors, meta)
    kept = again.state[other.weight]["momentum_buffer"]
    assert kept.dtype == torch.float32 and torch.equal(kept, torch.tensor([1.2345678]))


def test_what_does_not_fit_is_named() -> None:
    tensors, meta = capture(nn.Linear(2, 3))
    with pytest.raises(CheckpointError, match=r"lacks 0\.bias, 0\.weight and has bias, weight"):
        restore(nn.Sequential(nn.Linear(2, 3)), None, tensors, meta)
    with pytest.raises(CheckpointError, match=r"weight has shape \(3, 2\) .* \(4, 2\) here"):
        restore(nn.Linear(2, 4), None, tensors, meta)
    with pytest.raises(CheckpointError, match="float32 in the checkpoint but torch.float64 here"):
        restore(nn.Linear(2, 3, dtype=torch.float64), None, tensors, meta)
    model = nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match="no optimizer state"):
        restore(model, torch.optim.SGD(model.parameters()), tensors, meta)


def test_an_optimizer_over_other_parameters_is_refused() -> None:
    model = nn.Linear(2, 3)
    tensors, meta = capture(model, torch.optim.SGD([model.weight], lr=0.1))
    with pytest.raises(CheckpointError, match="lacks bias"):
        restore(model, torch.optim.SGD(model.parameters(), lr=0.1), tensors, meta)


def test_generators_go_on_with_the_same_numbers() -> None:
    random.gauss(0, 1)  # leaves a second value waiting inside
    saved = json.loads(json.dumps(capture_generators()))

    def draw() -> list[float]:
        return [
            random.gauss(0, 1),
            random.random(),
            float(np.random.randn()),
            *torch.rand(3).tolist(),
        ]

    first = draw()
    draw()
    restore_generators(saved)
    assert draw() == first
    with pytest.raises(CheckpointError, match="unreadable"):
        restore_generators({"python": saved["python"]})


def test_pack_keeps_tuples_infinities_and_odd_keys() -> None:
    value = {
        "betas": (0.9, 0.999),
        "best": float("inf"),
        "by_epoch": {1: [torch.ones(2)], 2: None},
        "__tuple__": "not one",
        "on": True,
    }
    tensors: dict[str, torch.Tensor] = {}
    again = unpack(json.loads(json.dumps(pack(value, "x", tensors))), tensors)
    assert again["betas"] == (0.9, 0.999) and again["best"] == float("inf")
    assert torch.equal(again["by_epoch"][1][0], torch.ones(2)) and again["on"] is True
    assert again["__tuple__"] == "not one"


def test_pack_names_what_it_cannot_keep() -> None:
    with pytest.raises(CheckpointError, match="x/fn holds a builtin_function_or_method"):
        pack({"fn": len}, "x", {})
