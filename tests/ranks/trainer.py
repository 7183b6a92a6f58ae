"""Cases of what a trainer does between batches, on several ranks, beside one process."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dto
from dto.runtime.data_parallel import DataParallel
from dto.runtime.transport import Transport
from dto.runtime.zero import Zero

SAMPLES, BATCH, EPOCHS = 41, 12, 2  # the last batch of an epoch has 5 samples


class Block(nn.Module):
    """With a layer inside, as blocks of real models are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 7), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.layers(x)
        return out


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(3)), nn.Linear(7, 3)).double()


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 7, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.arange(SAMPLES) % 3)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def alone(clip: float | None) -> dict[str, torch.Tensor]:
    model = net()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        for x, y in DataLoader(data(), batch_size=BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return model.state_dict()


def _trainer(transport: Transport, **options: Any) -> dto.DistributedTrainer:
    folder = transport.all_gather_object(tempfile.mkdtemp())[0]
    return dto.DistributedTrainer(
        transport=transport, run_dir=folder, verbose=False, auto_scale_lr=False, seed=0,
        global_batch_size=BATCH, checkpoint_interval=0, **options,
    )  # fmt: skip


def fits(transport: Transport, recipes: list[dict[str, Any]]) -> list[float]:
    """How far each recipe's final model is from one process; on rank 0, where the file is."""
    found = []
    for recipe in recipes:
        trainer, model = _trainer(transport, **recipe), net()
        history = trainer.fit(
            model, DataLoader(data(), batch_size=BATCH), sgd(model),
            nn.functional.cross_entropy, EPOCHS,
        )  # fmt: skip
        final = torch.load(history["final_model_path"], weights_only=True)["model_state_dict"]
        wanted = alone(recipe.get("clip_grad_norm"))
        assert list(final) == list(wanted)
        found.append(max(float((final[n] - wanted[n]).abs().max()) for n in wanted))
    return found


def overflows(transport: Transport, strategy: str) -> dict[str, Any]:
    """An infinite gradient on the last rank alone, in the second of eight steps."""
    trainer = _trainer(transport, precision="fp16", accumulation_steps=2, strategy=strategy)
    model = net().float()
    seen: list[torch.Tensor] = []

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(model[3].weight.detach().clone())
        loss = nn.functional.cross_entropy(outputs.float(), targets)
        return loss * 1e36 if len(seen) == 3 and transport.rank == transport.size - 1 else loss

    halves = TensorDataset(data().tensors[0].float(), data().tensors[1])
    optimizer = sgd(model)
    trainer.fit(model, DataLoader(halves, batch_size=BATCH), optimizer, criterion, EPOCHS)
    scaler = trainer.stepper(model, optimizer, criterion).scaler
    assert scaler is not None
    return {
        "skipped": torch.equal(seen[4], seen[2]) and not torch.equal(seen[2], seen[0]),
        "steps": trainer.session.step,
        "scale": scaler.get_scale(),
        "weights": model[3].weight.tolist(),
    }


class AskedHere(dto.Callback):
    """Stops in the second epoch, on one rank."""

    def __init__(self, rank: int) -> None:
        self.rank, self.losses = rank, []  # type: ignore[var-annotated]

    def on_step_end(self, trainer: Any, step: int, loss: float | None) -> None:
        self.losses.append(loss)

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Any) -> None:
        if epoch == 1 and trainer.rank == self.rank:
            trainer.stop_training()


def stops(transport: Transport) -> dict[str, Any]:
    """One rank asks for an end; what all heard of the steps until then."""
    trainer, model = _trainer(transport), net()
    told = AskedHere(transport.size - 1)
    history = trainer.fit(
        model, DataLoader(data(), batch_size=BATCH), sgd(model), nn.functional.cross_entropy, 5,
        callbacks=[told],
    )  # fmt: skip
    return {"epochs": history["epochs"], "losses": told.losses}


def clips_by_hand(transport: Transport) -> list[float]:
    """The norm and the clipped step of `dto.clip_grad_norm_`, over those of one process."""
    x, y = data().tensors
    wanted = net()
    nn.functional.cross_entropy(wanted(x[:BATCH]), y[:BATCH]).backward()
    norm = nn.utils.clip_grad_norm_(wanted.parameters(), 0.05)
    sgd(wanted).step()
    mine = slice(
        transport.rank * BATCH // transport.size, (transport.rank + 1) * BATCH // transport.size
    )
    found = []
    for stage in range(4):
        model = net()
        optimizer = sgd(model)
        parallel: Any = (
            Zero(model, optimizer, stage, transport=transport)
            if stage
            else DataParallel(model, transport)
        )
        with dto.no_sync(model):  # what is added up here is nothing yet
            pass
        nn.functional.cross_entropy(model(x[mine]), y[mine]).backward()
        found.append(float(dto.clip_grad_norm_(model, 0.05) - norm))
        optimizer.step()
        with parallel.whole():
            pairs = zip(copy.deepcopy(model).parameters(), wanted.parameters(), strict=True)
            found.append(max(float((a - b).abs().max()) for a, b in pairs))
    return found
