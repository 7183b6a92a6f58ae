"""Training through the real trainer, by any strategy, beside one process that needs none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dto import DistributedTrainer
from dto.runtime.transport import Transport

WIDTH, CLASSES, BATCH, SAMPLES = 12, 5, 12, 113  # ten batches, of which the last is uneven


class Block(nn.Module):
    """Two layers that tensor parallelism can cut, and one that it leaves whole."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(torch.tanh(self.up(self.norm(x))))
        return out


class Net(nn.Module):
    """Odd sizes, a buffer, and one parameter that is not trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("scale", torch.tensor(1.5))
        self.blocks[0].norm.bias.requires_grad_(False)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(x))
        return out

    def pipeline_stages(self) -> Sequence[nn.Module]:
        return [*self.blocks, self.head]

    def tensor_plan(self) -> dict[str, str]:
        return {"blocks.*.up": "column", "blocks.*.down": "row"}


def data(dtype: torch.dtype, samples: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=dtype)
    targets = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return TensorDataset(inputs[:samples], targets[:samples])


def optimizer_for(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """Two groups, so that a strategy has to keep them apart."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2 and p.requires_grad]
    if name == "sgd":
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others}]
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.01)


def alone(
    optimizer: str, dtype: torch.dtype, epochs: int, clip: float | None, samples: int
) -> dict[str, Tensor]:
    """One process, a loop of the tutorials."""
    model = Net(dtype)
    steps = optimizer_for(optimizer, model)
    inputs, targets = data(dtype, samples).tensors
    for _ in range(epochs):
        for begin in range(0, samples, BATCH):
            steps.zero_grad()
            rows = slice(begin, begin + BATCH)
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            steps.step()
    return model.state_dict()


def train(
    transport: Transport,
    *,
    run_dir: str,
    optimizer: str,
    dtype: str,
    epochs: int,
    clip_grad_norm: float | None = None,
    samples: int = SAMPLES,
    **options: Any,
) -> dict[str, Any]:
    """How far rank 0's final model is from one process, and everybody's bits."""
    kind = getattr(torch, dtype)
    trainer = DistributedTrainer(
        transport=transport,
        run_dir=run_dir,
        verbose=False,
        auto_scale_lr=False,
        global_batch_size=BATCH,
        checkpoint_interval=1,
        clip_grad_norm=clip_grad_norm,
        seed=0,
        **options,
    )
    model = Net(kind)
    steps = optimizer_for(optimizer, model)
    loader = DataLoader(data(kind, samples), batch_size=BATCH, shuffle=False)
    history = trainer.fit(
        model,
        loader,
        steps,
        nn.functional.cross_entropy,
        epochs,
        resume_from_checkpoint="auto",
        val_loader=DataLoader(data(kind), batch_size=10),
    )
    final = torch.load(history["final_model_path"], weights_only=True)["model_state_dict"]
    wanted = alone(optimizer, kind, epochs, clip_grad_norm, samples)
    with trainer.whole(), torch.no_grad():
        model.eval()  # one rank alone, as who writes a sample does
        called = model(data(kind).tensors[0]) if transport.rank == transport.size - 1 else None
    assert final.keys() == wanted.keys()
    text = b"".join(value.numpy().tobytes() for value in final.values())
    if called is not None:
        plain = Net(kind)
        plain.load_state_dict(final)
        assert _distance(called, plain(data(kind).tensors[0]).detach()) < 1e-5
    return {
        "distance": max(_distance(final[name], wanted[name]) for name in wanted),
        "bits": hashlib.sha256(text).hexdigest(),
        "losses": history["train_loss"],
        "accuracy": history["val_accuracy"][-1],
        "steps": trainer.session.step,
    }


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
