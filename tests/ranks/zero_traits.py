"""What ZeRO promises besides equal results; each case is a small run on these ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import dto
from dto.runtime.transport import Transport
from tests.ranks.zero import (
    STAGES,
    UNITS,
    Net,
    batch,
    error,
    grouped,
    loss_of,
    make,
    train,
    train_alone,
    wrap,
)
from tests.ranks.zero_parts import (
    alone_inside_whole,
    controls,
    held_by_torch,
    held_parts,
    kept_apart,
    lent_memory,
    taken_over,
)


def reruns(transport: Transport) -> list[bool]:
    """Whether two runs of the same steps end in the same bits, by stage."""

    def run(stage: int) -> list[torch.Tensor]:
        zero = wrap(transport, make(torch.float32), stage)
        train(zero)
        with zero.whole():
            return [p.detach().clone() for p in zero.model.parameters()]

    return [all(map(torch.equal, run(stage), run(stage))) for stage in STAGES]


def clipping(transport: Transport) -> list[float]:
    """The largest relative difference of a norm, and the error after clipped steps, by stage."""
    alone = make()
    wanted = train_alone(alone, grouped(alone), clip=0.3)
    found = []
    for stage in STAGES:
        zero = wrap(transport, make(), stage)
        norms = train(zero, clip=0.3)
        found.append(max(abs(a - b) / b for a, b in zip(norms, wanted, strict=True)))
        found.append(error(zero, alone))
    return found


def frozen(transport: Transport) -> list[Any]:
    """Errors with frozen weights inside units and one whole frozen unit, and what moved."""

    def prepare() -> Net:
        model = make()
        for name, param in model.named_parameters():
            is_cold = "wide.weight" in name or name.startswith("layers.0.")
            param.requires_grad_(not is_cold)
        return model

    alone = prepare()
    train_alone(alone, grouped(alone))
    found: list[Any] = []
    for stage in STAGES:
        zero = wrap(transport, prepare(), stage)
        train(zero)
        found.append(error(zero, alone))
        first = make().layers[0].wide.weight
        with zero.whole():
            found.append(torch.equal(zero.model.layers[0].wide.weight, first))
    return found


def recomputed(transport: Transport) -> list[float]:
    """Errors with activation checkpointing around each unit."""
    alone = make()
    train_alone(alone, grouped(alone))
    found = []
    for stage in STAGES:
        zero = wrap(transport, make(recompute=True), stage)
        train(zero)
        found.append(error(zero, alone))
    return found


def odd_passes(transport: Transport) -> list[float]:
    """Two forwards before one backward, evaluation between, and backward twice over one graph."""

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, pick: slice) -> None:
        for step in range(4):
            optimizer.zero_grad()
            ids, wanted = batch(step, 8)
            first = loss_of(model, ids[pick], wanted[pick])
            second = loss_of(model, wanted[pick], ids[pick])
            with torch.no_grad():
                model(ids)
            (first + second).backward(retain_graph=True)
            second.backward()
            optimizer.step()

    alone = make()
    steps(alone, grouped(alone), slice(None))
    found = []
    for stage in STAGES:
        zero = wrap(transport, make(), stage)
        mine = torch.arange(8).tensor_split(transport.size)[transport.rank]
        zero.set_weight(len(mine), 8)
        steps(zero.model, zero.optimizer, slice(int(mine[0]), int(mine[-1]) + 1))
        found.append(error(zero, alone))
    return found


def different_use(transport: Transport) -> list[Any]:
    """Ranks take different ways through the model; nobody uses layer 2. By stage."""
    found: list[Any] = []
    ways = [[0, 1], [1, 0], [0], [1]]
    alone = make()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        for rank in range(transport.size):
            alone.order = ways[(rank + step) % 4]
            ids, wanted = batch(10 * step + rank, 4)
            (loss_of(alone, ids, wanted) / transport.size).backward()
        optimizer.step()
    for stage in STAGES:
        model = make()
        mine = torch.optim.SGD(model.parameters(), lr=0.1)
        zero = dto.Zero(model, mine, stage, transport=transport, units=UNITS)
        for step in range(4):
            mine.zero_grad()
            model.order = ways[(transport.rank + step) % 4]
            loss_of(model, *batch(10 * step + transport.rank, 4)).backward()
            mine.step()
        found.append(error(zero, alone))
    return found


def state_bytes(transport: Transport) -> list[Any]:
    """(parameters, gradients, optimizer) in elements and steps, by stage, and the model's size."""
    found: list[Any] = []
    for stage in STAGES:
        model = make(torch.float32)
        optimizer = torch.optim.AdamW(model.parameters())
        zero = dto.Zero(model, optimizer, stage, transport=transport, units=UNITS)
        loss_of(model, *batch(0, 4)).backward()
        before = zero.nbytes()
        optimizer.step()
        state = optimizer.state.values()
        moments = sum(v.nbytes for s in state for k, v in s.items() if k != "step")
        found.append([before["parameters"] // 4, before["gradients"] // 4, moments // 4])
    return [sum(p.numel() for p in make().parameters()), found]


def memory_at_work(transport: Transport) -> dict[str, Any]:
    """How many units are whole at each layer, forward and backward; and after."""
    model = make()
    zero = wrap(transport, model, 3)
    model.order = [0, 1, 2]
    seen: list[int] = []

    def note(*args: Any) -> None:
        blocks = [block for unit in zero._engine.units[1:] for block in unit.blocks]
        seen.append(sum(block.flat.untyped_storage().size() > 0 for block in blocks))

    for layer in model.layers:
        layer.wide.register_forward_hook(note)
        layer.wide.register_full_backward_hook(note)
    for step in range(3):
        seen.clear()
        zero.optimizer.zero_grad()
        loss_of(model, *batch(step, 4)).backward()
        after = zero.nbytes()["parameters"]
        zero.optimizer.step()
    shown = [tuple(p.shape) for p in model.parameters()]
    is_same = shown == [tuple(p.shape) for p in make().parameters()]
    is_nan = all(bool(p.isnan().all()) for p in model.parameters())
    return {"whole": seen, "after": after // 8, "shapes": is_same, "nan": is_nan}


def low_precision(transport: Transport) -> list[Any]:
    """How far bf16 runs end from the float32 one, by how far that went, and some dtypes."""

    def flat(model: nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    alone = make(torch.float32)
    begin = flat(alone)
    train_alone(alone, grouped(alone))
    found: list[Any] = []
    for stage in STAGES:
        zero = wrap(transport, make(torch.float32), stage, mixed_precision=torch.bfloat16)
        train(zero)
        pieces = {p.dtype for group in zero.optimizer.param_groups for p in group["params"]}
        dtypes = [next(zero.model.parameters()).dtype, *pieces]
        dtypes.append(zero.model(batch(0, 4)[0]).dtype)
        zero.unshard()
        dtypes.append(zero.model.head.weight.dtype)
        far = (flat(zero.model) - flat(alone)).norm() / (flat(alone) - begin).norm()
        found.append([float(far), [str(dtype)[6:] for dtype in dtypes]])
    return found


def overflow(transport: Transport) -> list[Any]:
    """Scale after each step of an fp16 run in which the last rank once overflows; who stepped."""
    model = make(torch.float32)
    zero = wrap(transport, model, 3, mixed_precision=torch.float16)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    found: list[Any] = []
    for step in range(3):
        zero.optimizer.zero_grad()
        loss = loss_of(model, *batch(step, 4))
        if step == 1 and transport.rank == transport.size - 1:
            loss = loss * 1e30
        scaler.scale(loss).backward()
        before = [held.tensor.detach().clone() for held in zero.held()]
        scaler.step(zero.optimizer)
        scaler.update()
        moved = [not torch.equal(b, h.tensor) for b, h in zip(before, zero.held(), strict=True)]
        found.append([scaler.get_scale(), any(moved)])
    return found


CASES = [
    reruns,
    clipping,
    frozen,
    recomputed,
    odd_passes,
    different_use,
    state_bytes,
    memory_at_work,
    low_precision,
    overflow,
    controls,
    kept_apart,
    held_parts,
    held_by_torch,
    taken_over,
    alone_inside_whole,
    lent_memory,
]


def traits(transport: Transport) -> dict[str, Any]:
    """All of the above, by name."""
    return {case.__name__: case(transport) for case in CASES}
