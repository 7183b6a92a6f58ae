"""One line that makes a hand-written training loop distributed, stoppable and resumable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dto.runtime.loader import PreparedLoader
from dto.runtime.recipe import recipe_of
from dto.runtime.session import Session
from dto.runtime.settings import Settings

ModelT = TypeVar("ModelT", bound=nn.Module)
OptimizerT = TypeVar("OptimizerT", bound=Optimizer)


def distribute(
    model: ModelT,
    optimizer: OptimizerT,
    loader: DataLoader[Any],
    *,
    scheduler: Any = None,
    checkpoint_every: str | int | None = None,
    backend: str = "auto",
    device: str = "auto",
    global_batch_size: int | None = None,
    seed: int | None = None,
    run_dir: str | Path | None = None,
    keep_last: int = 3,
    strategy: str = "ddp",
    mesh: Mapping[str, int] | None = None,
    **objects: Any,
) -> tuple[ModelT, OptimizerT, PreparedLoader]:
    """Prepare your own loop: `model, optimizer, loader = dto.distribute(model, optimizer, loader)`.

    The model and the optimizer stay the objects they were. Iterate over the returned loader once
    per epoch; epochs and batches that a resumed run has behind it are skipped by itself, and
    model, optimizer, generators and `scheduler` continue exactly where the checkpoint was taken.
    More `objects` with state_dict() and load_state_dict() (a GradScaler, say) are saved by name.
    In a run of dto, or with `run_dir`, the newest valid checkpoint is continued.

    `strategy`: ddp, zero1, zero2, zero3, tensor or ps; a pipeline needs `DistributedTrainer`. Where
    ranks hold parts of the model, `dto.clip_grad_norm_(model, max_norm)` knows of all of them.
    """
    session = Session(
        Settings(
            backend=backend,
            device=device,
            checkpoint_every=checkpoint_every,
            global_batch_size=global_batch_size,
            seed=seed,
            run_dir=run_dir,
            keep_last=keep_last,
            recipe=recipe_of({"strategy": strategy, "mesh": mesh}),
        )
    )
    if session.in_run or run_dir is not None:
        session.look_for_checkpoint()
    session.add_optimizer(model, optimizer, scheduler=scheduler, **objects)
    session.restore()
    return model, optimizer, session.add_loader(loader, is_training=True)
