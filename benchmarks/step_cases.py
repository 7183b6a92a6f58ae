"""Both sides of `step_time`: a training step by dto, and as it is written by hand for the peer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.workloads import Workload
from dto.runtime.transport import Transport

Case = Callable[[], float]
"""Runs some steps, returns the seconds of one."""

MICRO_BATCHES = 8


def ddp(workload: Workload, transport: Transport) -> dict[str, Case]:
    """A whole epoch of the trainer beside torch's DDP, or Horovod, in the loop of the tutorials."""
    model = workload.build()
    if transport.name == "horovod":
        import horovod.torch as hvd

        named = list(model.named_parameters())
        plain = torch.optim.SGD(model.parameters(), lr=0.01)
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        optimizer: Any = hvd.DistributedOptimizer(plain, named_parameters=named)
        peer = _by_hand(workload, model, optimizer, transport)
    else:
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        peer = _by_hand(workload, wrapped, optimizer, transport)
    return {"dto": by_trainer(workload, transport), "peer": peer, "again": peer}


def by_trainer(workload: Workload, transport: Transport) -> Case:
    """What `fit` does for each step, without its validation and final model."""
    import dto
    from dto.runtime.epochs import Meter, train_epoch

    trainer = dto.DistributedTrainer(verbose=False, checkpoint_interval=0, auto_scale_lr=False)
    model = trainer.prepare_model(workload.build())
    optimizer = trainer.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.01), model)
    data = workload.samples(transport.size * workload.batch * workload.steps)
    loader = trainer.prepare_dataloader(DataLoader(data, workload.batch, shuffle=True))

    def case() -> float:
        trainer.meter = Meter()
        began = time.perf_counter()
        train_epoch(
            model=model, train_loader=loader, optimizer=optimizer, device=trainer.device,
            criterion=nn.functional.cross_entropy, trainer=trainer, epoch=0,
        )  # fmt: skip
        return (time.perf_counter() - began) / workload.steps

    return case


def _by_hand(workload: Workload, model: nn.Module, optimizer: Any, transport: Transport) -> Case:
    """The loop of the tutorials: DistributedSampler, loss summed up for the log."""
    from torch.utils.data.distributed import DistributedSampler

    data = workload.samples(transport.size * workload.batch * workload.steps)
    sampler: DistributedSampler[Any] = DistributedSampler(data, transport.size, transport.rank)
    loader = DataLoader(data, workload.batch, sampler=sampler)

    def case() -> float:
        began = time.perf_counter()
        total = 0.0
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return (time.perf_counter() - began) / workload.steps

    return case


def zero3(workload: Workload, transport: Transport) -> dict[str, Case]:
    """Parameters, gradients and optimizer state cut up: beside fully_shard, by block and root.

    Both gather the same blocks; by itself dto would take models this small as one.
    """
    import dto

    ours = workload.build()
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-3)
    blocks = {id(block) for block in workload.blocks(ours) if list(block.parameters())}
    units = [name for name, module in ours.named_modules() if id(module) in blocks]
    dto.Zero(ours, optimizer, stage=3, transport=transport, units=units)
    model = sharded_by_torch(workload, workload.build())
    peer = _repeated(workload, model, torch.optim.AdamW(model.parameters(), lr=1e-3), transport)
    return {"dto": _repeated(workload, ours, optimizer, transport), "peer": peer, "again": peer}


def sharded_by_torch(workload: Workload, model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # whose output nobody changes
    for block in workload.blocks(model):
        fully_shard(block)
    fully_shard(model)
    return model


def _repeated(workload: Workload, model: nn.Module, optimizer: Any, transport: Transport) -> Case:
    """Steps on one batch that lies in memory."""
    inputs, targets = workload.samples(transport.size * workload.batch).tensors
    mine = slice(transport.rank * workload.batch, (transport.rank + 1) * workload.batch)
    inputs, targets = inputs[mine], targets[mine]

    def case() -> float:
        began = time.perf_counter()
        for _ in range(workload.steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return (time.perf_counter() - began) / workload.steps

    return case


def pipeline(workload: Workload, transport: Transport) -> dict[str, Case]:
    """1F1B by dto's engine beside torch's Schedule1F1B, over the same stages."""
    cases = {
        backend: _piped(workload, transport.size * workload.batch, backend)
        for backend in ("dto", "torch")
    }
    return {"dto": cases["dto"], "peer": cases["torch"], "again": cases["torch"]}


def _piped(workload: Workload, batch: int, backend: str) -> Case:
    import dto

    inputs, targets = workload.samples(batch).tensors
    pipe = dto.Pipeline(
        workload.build(), MICRO_BATCHES, "1f1b", loss=nn.functional.cross_entropy, backend=backend
    )
    optimizer = torch.optim.AdamW(pipe.parameters(), lr=1e-3)

    def case() -> float:
        began = time.perf_counter()
        for _ in range(workload.steps):
            optimizer.zero_grad()
            pipe.step(inputs, targets)
            optimizer.step()
        return (time.perf_counter() - began) / workload.steps

    return case


STRATEGIES: dict[str, Callable[[Workload, Transport], dict[str, Case]]] = {
    "ddp": ddp,
    "zero3": zero3,
    "pipeline": pipeline,
}
