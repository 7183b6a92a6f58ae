"""Cases of tensor parallelism: each trains beside one process that does the same alone."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dto.checkpoint.sharded import Held
from dto.runtime.data_parallel import DataParallel
from dto.runtime.tensor import TensorParallel
from dto.runtime.transport import Handle, Transport
from dto.runtime.zero import Zero
from examples.tiny_gpt import BYTES, TinyGPT

Batch = tuple[torch.Tensor, torch.Tensor]
CONTEXT, WIDTH, LAYERS = 12, 24, 2
PLAN = {"1": "column", "3": "row"}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": functools.partial(torch.optim.AdamW, lr=1e-2),
}


def mlp(dropout: float = 0.0) -> nn.Sequential:
    layers = [nn.Linear(7, 5), nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 9), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(9, BYTES))


def gpt() -> TinyGPT:
    """Without the biases of keys, whose gradient is nothing but rounding."""
    model = TinyGPT(CONTEXT, WIDTH, heads=12, layers=LAYERS)
    for layer in model.layers:
        assert isinstance(layer.qkv, nn.Linear)
        layer.qkv.register_parameter("bias", None)
    return model


def make(kind: str, dtype: torch.dtype, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return {"mlp": mlp, "gpt": gpt, "dropout": lambda: mlp(0.3)}[kind]().to(dtype)


def batches(kind: str, dtype: torch.dtype, count: int = 8, size: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        ids = torch.randint(BYTES, (size, CONTEXT + 1), generator=generator)
        x = torch.randn(size, 7, generator=generator, dtype=torch.float64).to(dtype)
        found.append((ids[:, :-1], ids[:, 1:]) if kind == "gpt" else (x, ids[:, 0]))
    return found


def train(model: nn.Module, rows: list[Batch], name: str, clip: Any = None) -> list[float]:
    optimizer = OPTIMIZERS[name](model.parameters())
    told = []
    for x, y in rows:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        told.append(loss.item())
        if clip:
            told.append(float(clip(0.3)))
        optimizer.step()
    return told


def clip_alone(model: nn.Module) -> Callable[[float], torch.Tensor]:
    return lambda limit: nn.utils.clip_grad_norm_(model.parameters(), limit)


def apart(ours: nn.Module, theirs: nn.Module) -> float:
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max(float((a - b).detach().norm() / b.detach().norm()) for a, b in pairs)


def bits(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()


def cut(kind: str, transport: Transport, dtype: torch.dtype, **more: Any) -> TensorParallel:
    """A model that only rank 0 has begun with the right weights."""
    model = make(kind, dtype, seed=transport.rank)
    plan = None if kind == "gpt" else PLAN
    return TensorParallel(model, plan, transport=transport, **more)


def beside_one_process(
    transport: Transport, kind: str, optimizer: str, precision: str, **more: Any
) -> dict[str, Any]:
    """How far parameters and losses (and gradient norms) are from those of one process."""
    dtype = getattr(torch, precision)
    tensor = cut(kind, transport, dtype, **more)
    alone = make(kind, dtype, seed=0)
    rows = batches(kind, dtype)
    told = []
    for model, clip in ((tensor.model, tensor.clip_grad_norm), (alone, clip_alone(alone))):
        torch.manual_seed(5)  # as all ranks go on with one generator
        told.append(train(model, rows, optimizer, clip))
    replicated = [one.tensor for one in tensor.held() if one.replicas]
    local = bits(list(tensor.model.parameters()))
    with tensor.whole():
        distance = apart(tensor.model, alone)
    off = max(abs(a - b) for a, b in zip(*told, strict=True))
    return {"apart": distance, "off": off, "replicas": bits(replicated), "bits": local}


CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "mlp sgd": ("mlp", "sgd", "float64", {}),
    "mlp adamw": ("mlp", "adamw", "float64", {}),
    "mlp float32": ("mlp", "adamw", "float32", {}),
    "mlp torch": ("mlp", "sgd", "float64", {"backend": "torch"}),
    "dropout": ("dropout", "sgd", "float64", {}),
    "gpt sgd": ("gpt", "sgd", "float64", {}),
    "gpt adamw": ("gpt", "adamw", "float64", {}),
    "gpt float32": ("gpt", "adamw", "float32", {}),
    "gpt sequence sgd": ("gpt", "sgd", "float64", {"sequence_parallel": True}),
    "gpt sequence": ("gpt", "adamw", "float64", {"sequence_parallel": True}),
    "gpt sequence float32": ("gpt", "adamw", "float32", {"sequence_parallel": True}),
    "gpt torch": ("gpt", "adamw", "float64", {"backend": "torch"}),
}


BY_WORLD = {
    1: ["mlp sgd", "gpt sequence"],
    2: list(CASES),
    3: ["mlp adamw", "dropout", "gpt sgd", "gpt sequence", "gpt sequence float32", "gpt torch"],
    4: ["mlp sgd", "mlp torch", "gpt adamw", "gpt sequence"],
}
"""Which cases on how many ranks: each kind on each number, without all products of both."""


def matrix(transport: Transport, names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        kind, optimizer, precision, more = CASES[name]
        found[name] = beside_one_process(transport, kind, optimizer, precision, **more)
    return found


class Counting:
    """A transport that counts what goes through it, by kind and elements."""

    def __init__(self, inner: Transport) -> None:
        self._inner, self.seen = inner, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def all_reduce_async(self, tensor: torch.Tensor) -> Handle:
        self.seen[f"sum {tensor.numel()}"] += 1
        return self._inner.all_reduce_async(tensor)

    def all_gather_async(self, flat: torch.Tensor, shard: torch.Tensor) -> Handle:
        self.seen[f"gather {flat.numel()}"] += 1
        return self._inner.all_gather_async(flat, shard)

    def reduce_scatter_async(self, shard: torch.Tensor, flat: torch.Tensor) -> Handle:
        self.seen[f"scatter {flat.numel()}"] += 1
        return self._inner.reduce_scatter_async(shard, flat)


def traffic(transport: Transport, sequence_parallel: bool) -> dict[str, int]:
    """What one forward and backward of TinyGPT sends."""
    counting = Counting(transport)
    model = cut("gpt", counting, torch.float32, sequence_parallel=sequence_parallel).model
    x, y = batches("gpt", torch.float32, 1)[0]
    nn.functional.cross_entropy(model(x), y).backward()
    return dict(counting.seen)


def grid(transport: Transport, zero: bool) -> list[float]:
    """Two replicas of two ranks each, a cut sequence. Beside one process."""
    tp = transport.split([[0, 1], [2, 3]])
    dp = transport.split([[0, 2], [1, 3]])
    tensor = cut("gpt", tp, torch.float64, sequence_parallel=True)
    alone = make("gpt", torch.float64, seed=0)
    steppers = [OPTIMIZERS["adamw"](m.parameters()) for m in (tensor.model, alone)]
    replicas: list[int] = list(tensor.held()[2].replicas)
    parallel: DataParallel | Zero = (
        Zero(tensor.model, steppers[0], 3, transport=dp, units=["layers.*"])
        if zero
        else DataParallel(tensor.model, dp)
    )
    rows = batches("gpt", torch.float64, 16)
    mine = slice(2 * dp.rank, 2 * dp.rank + 2)
    for pair in zip(rows[::2], rows[1::2], strict=True):
        for stepper in steppers:
            stepper.zero_grad()
        for x, y in pair:
            nn.functional.cross_entropy(alone(x), y).backward()
            with parallel.no_sync():
                nn.functional.cross_entropy(tensor.model(x[mine]), y[mine]).backward()
        parallel.synchronise()
        for stepper in steppers:
            stepper.step()
    with parallel.whole(), tensor.whole():
        return [apart(tensor.model, alone), *replicas]


def rebuilt(transport: Transport) -> list[Any]:
    """The whole model from what all ranks say they hold; every element comes from one of them."""
    tensor = cut("gpt", transport, torch.float64)
    mine = [
        (part.name, part.begin, part.end, part.of(one.tensor))
        for one in tensor.held()
        if _writes(one, transport.rank)
        for part in one.parts
    ]
    alone = make("gpt", torch.float64, seed=0)
    whole = {name: torch.zeros(p.numel()).double() for name, p in alone.named_parameters()}
    count = 0
    for theirs in transport.all_gather_object(mine):
        for name, begin, end, values in theirs:
            whole[name][begin:end] = values
            count += end - begin
    equal = [torch.equal(whole[n], p.detach().flatten()) for n, p in alone.named_parameters()]
    return [all(equal), count == sum(map(torch.numel, alone.parameters()))]


def _writes(one: Held, rank: int) -> bool:
    return not one.replicas or min(one.replicas) == rank
