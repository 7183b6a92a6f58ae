"""Further cases of tensor parallelism: what else a model with shared layers can do, or cannot."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dto
from dto.errors import DtoError
from dto.runtime.tensor import TensorParallel
from dto.runtime.transport import Transport
from examples.tiny_gpt import BYTES, TinyGPT
from tests.ranks.tensor import PLAN, WIDTH, apart, batches, cut, make, mlp, train


def whole_for_a_while(transport: Transport) -> list[Any]:
    """Rank 0 alone calls the model, all change it; what it wrote, and how far outputs are off."""
    tensor = cut("gpt", transport, torch.float64, sequence_parallel=True)
    model, alone = tensor.model, make("gpt", torch.float64, seed=0)
    assert isinstance(model, TinyGPT) and isinstance(alone, TinyGPT)
    before = model(batches("gpt", torch.float64)[0][0])
    wrote = ""
    with tensor.whole():
        if transport.rank == 0:
            wrote = model.write("The ", 3)
        is_whole = [p.shape for p in model.parameters()] == [p.shape for p in alone.parameters()]
        with torch.no_grad():
            model.layers.get_parameter("0.qkv.weight").mul_(2)
            alone.layers.get_parameter("0.qkv.weight").mul_(2)
    changed = model(batches("gpt", torch.float64)[0][0])
    wanted = alone(batches("gpt", torch.float64)[0][0])
    return [wrote, is_whole, float((changed - wanted).norm()), float((before - wanted).norm())]


def unsharded(transport: Transport) -> list[Any]:
    """The model afterwards: its classes, whether it can be pickled, and how far it is off."""
    tensor = cut("gpt", transport, torch.float64, sequence_parallel=True)
    alone = make("gpt", torch.float64, seed=0)
    for model in (tensor.model, alone):
        train(model, batches("gpt", torch.float64, 3), "sgd")
    tensor.unshard()
    again = pickle.loads(pickle.dumps(tensor.model))
    x, _ = batches("gpt", torch.float64)[0]
    off = float((again(x) - alone(x)).detach().norm())
    return [type(again.layers[0].qkv).__name__, off, apart(tensor.model, alone)]


def overflowed(transport: Transport) -> list[bool]:
    """Rank 1 has an infinite gradient; then all have."""
    tensor = cut("mlp", transport, torch.float32)
    x, y = batches("mlp", torch.float32, 1)[0]
    nn.functional.cross_entropy(tensor.model(x), y).backward()
    first = tensor.model.get_parameter("1.weight")
    tensor.agree_on_overflow()
    assert first.grad is not None and bool(torch.isfinite(first.grad).all())
    if transport.rank == 1:
        first.grad[0] = torch.inf
    tensor.agree_on_overflow()
    return [bool(p.grad.isinf().all()) for p in tensor.model.parameters() if p.grad is not None]


def recomputed(transport: Transport) -> bool:
    """Activation checkpointing of every layer changes nothing."""
    plain, saving = (cut("gpt", transport, torch.float64, sequence_parallel=True) for _ in "ab")
    for layer in saving.model.layers:  # type: ignore[union-attr]
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    rows = batches("gpt", torch.float64, 2)
    return train(plain.model, rows, "sgd") == train(saving.model, rows, "sgd")


def compiled(transport: Transport) -> bool:
    """torch.compile works around what sends."""
    plain, other = (cut("mlp", transport, torch.float64) for _ in "ab")
    rows = batches("mlp", torch.float64, 2)
    quick: Any = torch.compile(other.model, backend="eager")
    return train(plain.model, rows, "sgd") == train(quick, rows, "sgd")


def in_bfloat16(transport: Transport) -> float:
    """Autocast: gradients beside those of one process under autocast."""
    tensor, alone = cut("gpt", transport, torch.float32), make("gpt", torch.float32, seed=0)
    x, y = batches("gpt", torch.float32, 1)[0]
    for model in (tensor.model, alone):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
    ours, theirs = (m.get_parameter("token.weight") for m in (tensor.model, alone))
    assert ours.grad is not None and theirs.grad is not None
    return float((ours.grad - theirs.grad).norm() / theirs.grad.norm())


class WithinHeads(nn.Module):
    """A scale that works on cut values, between a column and a row layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(7, 12), nn.Linear(12, BYTES)
        self.scale = nn.LayerNorm(1, elementwise_affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down((self.up(x).unsqueeze(-1) * self.scale.weight).squeeze(-1))
        return y


def summed_within_heads(transport: Transport) -> float:
    torch.manual_seed(0)
    model = WithinHeads().double()
    alone = copy.deepcopy(model)
    model.scale.weight.requires_grad_()
    plan = {"up": "column", "down": "row", "scale": "sum"}
    tensor = TensorParallel(model, plan, transport=transport)
    rows = batches("mlp", torch.float64)
    for one in (model, alone):
        one.scale.bias.requires_grad_(False)  # is not used
        train(one, rows, "sgd")
    with tensor.whole():
        return float((model.scale.weight - alone.scale.weight).abs())


def frozen_layers(transport: Transport) -> list[float]:
    """A frozen column layer and the bias of a row layer get no gradient, the others their own."""
    tensor, alone = cut("mlp", transport, torch.float64), make("mlp", torch.float64, 0)
    x, y = batches("mlp", torch.float64, 1)[0]
    for model in (tensor.model, alone):
        assert isinstance(model, nn.Sequential)
        model[1].requires_grad_(False)
        nn.functional.cross_entropy(model(x), y).backward()
    (_, ours), (_, theirs) = (next(m.named_parameters()) for m in (tensor.model, alone))
    assert ours.grad is not None and theirs.grad is not None
    return [float((ours.grad - theirs.grad).norm()), float(tensor.clip_grad_norm(1e9))]


def refusals(transport: Transport) -> dict[str, str]:
    sequence = {"sequence_parallel": True}
    x = torch.zeros(2, 7)
    attempts: dict[str, Callable[[], Any]] = {
        "other plan": lambda: TensorParallel(
            mlp(), {"1": "column"} if transport.rank else PLAN, transport=transport
        ),
        "other model": lambda: TensorParallel(
            nn.Sequential(nn.Linear(2, 12 + transport.rank)), {"0": "column"}, transport=transport
        ),
        "outputs": lambda: TensorParallel(mlp(), {"0": "column"}, transport=transport),
        "inputs": lambda: TensorParallel(mlp(), {"0": "row"}, transport=transport),
        "heads": lambda: TensorParallel(TinyGPT(8, 12, 3, 1), transport=transport),
        "row alone": lambda: TensorParallel(mlp(), {"3": "row"}, transport=transport).model(x),
        "length": lambda: cut("gpt", transport, torch.float32, **sequence).model(
            torch.zeros(2, 11, dtype=torch.long)
        ),
        "batch": lambda: cut("mlp", transport, torch.float32).model(x + transport.rank),
        "not called": lambda: cut("gpt", transport, torch.float32, **sequence)
        .model.get_submodule("layers.0")(torch.zeros(2, 6, WIDTH)),
    }
    return {name: refusal(attempt) for name, attempt in attempts.items()}


def refusal(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except DtoError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def torch_backend(transport: Transport) -> str:
    return refusal(lambda: cut("mlp", transport, torch.float32, backend="torch"))


def joins_by_itself(transport: Transport) -> list[Any]:
    """Without a transport it takes the whole world, and leaves it running."""
    tensor = dto.TensorParallel(mlp(), PLAN)
    drawn = torch.rand(1).item()
    tensor.close()
    transport.barrier()
    return [tensor.transport.size, list(tensor.model[1].weight.shape), drawn]  # type: ignore
