"""One rank's training, shared by trainer and `distribute`: steps, boundaries, stop, resume."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dto.checkpoint.generators import restore_generators
from dto.checkpoint.sharded import Outline
from dto.checkpoint.state import parameter_names
from dto.checkpoint.store import Store
from dto.errors import WorldError
from dto.runtime.data import Size
from dto.runtime.data_parallel import Control, DataParallel
from dto.runtime.every import parse_every
from dto.runtime.keeper import Keeper, Loaded, Standing, Subject, put_back
from dto.runtime.loader import PreparedLoader, units_per_batch
from dto.runtime.progress import Progress, Row
from dto.runtime.sameness import describe_data, require_same, warn_of_other_data
from dto.runtime.seeds import derive, seed_everything
from dto.runtime.settings import Settings, Stopped, choose_device
from dto.runtime.shards import Cut
from dto.runtime.signals import LastWords, StopFlag, show_errors_in_one_line
from dto.runtime.stores import next_attempt, open_store
from dto.runtime.strategy import Strategy
from dto.runtime.transport import open_transport
from dto.runtime.world import read_world
from dto.telemetry import connect

if TYPE_CHECKING:
    from dto.runtime.pipeline import Pipeline
    from dto.runtime.spread import Spread

log = logging.getLogger(__name__)


class Session:
    """Counts optimizer steps, and acts between them.

    A boundary lies where the script asks the training loader for its next batch and the
    optimizer has stepped since the last one. Nothing is half done there: it is the only place
    where a checkpoint is taken and where all ranks leave together.
    """

    def __init__(self, settings: Settings, env: Mapping[str, str] = os.environ) -> None:
        self.settings = settings
        show_errors_in_one_line()
        self.world = read_world(env)
        self.link = connect(env)
        self.last_words = LastWords(self.link)
        self.device = choose_device(settings.device, self.world.local_rank)
        if settings.seed is not None:  # the same on all ranks, so that models begin alike
            seed_everything(settings.seed)
        self.every = parse_every(settings.checkpoint_every)
        self.transport = open_transport(settings.backend, self.world, self.device, env)
        self.recipe = settings.recipe
        self.layout = self.recipe.layout(self.world.size)
        place = self.layout.mesh.place(self.world.rank)
        self.replica = place["dp"]
        """Ranks of one replica see the same data; this is whose."""
        self.speaks = place["pp"] == place["tp"] == 0
        """Whether this rank's sums count, since others of its replica have the same."""
        self.stop = StopFlag(self.link)
        self.progress = Progress(self.link, self.world.is_master)
        self.in_run = bool(env.get("DTO_RUN_DIR"))
        self.keeper = Keeper(self.transport, self.link, open_store(self.transport, settings, env))
        chosen = settings.seed if settings.seed is not None else torch.initial_seed()
        self.seed = int(self._from_master(chosen))
        self.step = 0
        self.epoch = 0
        self.samples = 0
        self.global_batch = 0
        self.data = ""
        self.lr_factor: float | None = None
        self.subject: Subject | None = None
        self._model: nn.Module | None = None
        self.parallel: Strategy | None = None
        self.spread: Spread | None = None
        self.extra: Callable[[], dict[str, Any]] = dict
        self.rank_extra: Callable[[], dict[str, Any]] = dict
        self.pinned_generators: dict[str, Any] | None = None
        self._loaded: Loaded | None = None
        self._boundary_step = 0
        self._trained = 0
        self._own = 0
        self.fewest_samples = 1
        """What the rank with the smallest part of the current batch can cut into pieces."""
        self._loss: float | torch.Tensor = 0.0
        self._has_loss = False
        atexit.register(self._leave)

    # set-up

    def store_at(self, path: Path) -> Store:
        """Go on in `path`, as the next attempt of whoever wrote there before."""
        return next_attempt(self.transport, path, self.settings.keep_last)

    def _from_master(self, value: Any) -> Any:
        return self.transport.all_gather_object(value)[0]

    def add_model(self, model: nn.Module) -> None:
        """Equal start on every rank; with data parallelism gradients are averaged from now on."""
        if self._model is model:
            return
        self._model = model.to(self.device)
        if self.world.size > 1 and self._is_plain:
            self.parallel = DataParallel(model, self.transport, self._outgoing)

    @property
    def _is_plain(self) -> bool:
        """Data parallelism of dto's own, which needs no optimizer to begin."""
        recipe = self.recipe
        return (
            self.layout.name == "ddp"
            and recipe.implementation == "dto"
            and recipe.communication in (None, "native")
        )

    def add_optimizer(
        self, model: nn.Module, optimizer: Optimizer, criterion: Any = None, **objects: Any
    ) -> None:
        """Take charge of what is trained; `objects` are saved with it, None is left out."""
        self.add_model(model)
        known = {name: thing for name, thing in objects.items() if thing is not None}
        if self.subject is not None and self.subject.optimizer is optimizer:
            self.subject.objects = known
            return
        optimizer.register_step_post_hook(self._stepped)
        cut = None if self._is_plain else self._spread(model, optimizer, criterion)
        self.subject = Subject(model, optimizer, known, cut)

    def _spread(self, model: nn.Module, optimizer: Optimizer, criterion: Any) -> Cut | None:
        from dto.runtime.spread import Spread

        outline = Outline.of(model, parameter_names(model, optimizer))
        self.parallel = self.spread = Spread(
            model, optimizer, self.transport, self.layout, self.recipe, self._outgoing, criterion
        )
        if self.world.is_master:
            log.info("%s on %s", self.layout.name, self.layout.mesh)
        is_whole = self.parallel.held() is None
        return None if is_whole else Cut(model, optimizer, self.parallel, outline)

    def add_loader(
        self,
        loader: DataLoader[Any] | PreparedLoader,
        *,
        is_training: bool,
        keeps_step: bool = True,
        batch_factor: int = 1,
    ) -> PreparedLoader:
        """Share a DataLoader out over the ranks; a prepared one stays as it is.

        Each worker takes `batch_factor` times the DataLoader's batch size.
        """
        if isinstance(loader, PreparedLoader):
            return loader
        batch = units_per_batch(loader) * batch_factor * self.layout.mesh.dp
        if is_training:
            batch = self.settings.global_batch_size or batch
            if self._loaded is not None and self._loaded.manifest.global_batch:
                batch = self._loaded.manifest.global_batch
            self.global_batch, self.data = batch, describe_data(loader)
            require_same(self.transport, "other training data", [self.data, f"batches of {batch}"])
            if self._loaded is not None and self.world.is_master:
                warn_of_other_data(self._loaded.manifest.extra.get("data"), self.data)
        return PreparedLoader(
            loader,
            world=self.layout.mesh.dp,
            rank=self.replica,
            seed=self.seed,
            global_batch=batch,
            listener=self if is_training else None,
            keeps_step=keeps_step,
            agree=self._from_master,
        )

    def look_for_checkpoint(self, store: Store | None = None, only: str | None = None) -> bool:
        """Read the checkpoint to go on from; the loader and the model learn of it later."""
        self._loaded = self.keeper.load_newest(store or self.keeper.store, only)
        if self._loaded is None:
            return False
        manifest = self._loaded.manifest
        self.seed = int(manifest.position["seed"])
        self.step = self._boundary_step = manifest.step
        self.epoch, self.samples = manifest.position["epoch"], manifest.position["samples"]
        self.lr_factor = manifest.extra.get("lr_factor")
        if self.world.is_master:
            text = f"goes on from step {self.step}: epoch {self.epoch}, sample {self.samples}"
            log.info(text)
            self.link.post("event", name="resumed", text=text)
        return True

    @property
    def loaded(self) -> Loaded | None:
        """The checkpoint that this process goes on from, until it has arrived there."""
        return self._loaded

    def restore(self) -> None:
        """Put the checkpoint into model and optimizer."""
        if self._loaded is not None and self.subject is not None:
            put_back(self._loaded, self.subject, self.transport)

    def rank_state(self) -> dict[str, Any] | None:
        """What this rank saved; None on another number of ranks."""
        assert self._loaded is not None
        ranks = self._loaded.manifest.extra.get("ranks", [])
        return dict(ranks[self.world.rank]) if len(ranks) == self.world.size else None

    # the training loader tells us

    def begin_epoch(self, epoch: int) -> int | None:
        """Samples to skip; None for an epoch that lies wholly behind the checkpoint."""
        if self._loaded is not None and epoch < self.epoch:
            return None
        if self._loaded is None or epoch > self.epoch:
            self.epoch, self.samples = epoch, 0
        return self.samples

    def arrive(self) -> None:
        """Where the checkpoint was taken: whatever the script did on its way here is undone."""
        if self._loaded is not None:
            self.settle()
        elif self.step == 0 and self._trained == 0 and self.settings.seed is not None:
            seed_everything(derive(self.settings.seed, "rank", self.replica))
        self.progress.start()

    def settle(self) -> None:
        """Be exactly where the checkpoint was taken, generators and all."""
        if self._loaded is None:
            return
        self.restore()
        state = self.rank_state()
        if state is not None:
            restore_generators(state["generators"])
        else:  # another world: fresh streams, yet the same ones if this resume is repeated
            seed_everything(derive(self.seed, "rank", self.replica, self.step, self.world.size))
        self._loaded = None

    def begin_batch(self, size: Size) -> None:
        self._own, self._loss, self._has_loss = size.own, 0.0, False
        self.fewest_samples = max(1, size.total // self.layout.mesh.dp)
        if self.parallel is not None:
            self.parallel.set_weight(size.own, size.total)

    def note_loss(self, loss: torch.Tensor) -> None:
        """Tell the mean loss of this rank's part of the batch, before backward."""
        value = loss.detach()
        self._loss = float(value) * self._own if value.device.type == "cpu" else value * self._own
        self._has_loss = True

    @property
    def pipeline(self) -> Pipeline | None:
        """What takes batches through this rank's stage, where there are stages."""
        return self.spread.pipeline if self.spread is not None else None

    @property
    def own_samples(self) -> int:
        """How many samples of the current batch count as this rank's."""
        return self._own

    def end_batch(self, size: Size) -> None:
        self.samples += size.total
        self._trained += size.total
        if self.step != self._boundary_step:
            self._boundary_step = self.last_words.step = self.step
            self._boundary(size)

    # boundaries

    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.subject is not None and optimizer is self.subject.optimizer:
            self.step += 1

    def _outgoing(self) -> Control:
        waited = time.monotonic() - self.keeper.saved_at
        is_due = self.world.is_master and self.every.is_time_due(waited)
        wants_stop = self.stop.reason is not None
        return Control(float(wants_stop), float(self._own), float(is_due), self._loss)

    def _agreed(self) -> Control:
        """The sums over all ranks: they came with the gradients, or are asked for here."""
        control = self.parallel.take_control() if self.parallel is not None else self._outgoing()
        if control is not None:
            return control
        mine = self._outgoing()
        values = torch.zeros(4, dtype=torch.float64, device=self.device)
        values[:3] = torch.tensor([mine.stop, mine.samples, mine.save], dtype=torch.float64)
        values[3] = mine.loss
        self.transport.all_reduce(values)
        stop, samples, save, loss = values.tolist()
        return Control(stop, samples, save, loss)

    def _boundary(self, size: Size) -> None:
        control = self._agreed()
        loss = control.loss / max(control.samples, 1.0) if self._has_loss else None
        self.progress.tick(Row(self.step, self.epoch, self._trained, loss))
        if control.stop:
            self.leave()
        elif control.save or self.every.is_step_due(self.step):
            self.save()

    def poll(self) -> None:
        """A place outside training where all ranks are at once: leave, if any was told to."""
        wanted = torch.tensor([float(self.stop.reason is not None)], device=self.device)
        self.transport.all_reduce(wanted)
        if wanted.item():
            self.leave()

    def leave(self) -> None:
        """Save and end the script; every rank is at this same step."""
        self.progress.flush()
        name = self.save()
        reason = self.stop.reason or "another rank was asked to stop"
        self.link.post("event", name="stopped", text=f"saved {name} and stopped: {reason}")
        self.link.flush()
        if self.world.is_master:
            log.warning("saved %s and stopped at step %d: %s", name, self.step, reason)
        raise Stopped

    def save(self, is_best: bool = False) -> str:
        """Commit a checkpoint of this moment; every rank calls it. Returns its name."""
        if self.subject is None:
            raise WorldError("nothing to save yet: prepare a model and an optimizer first")
        self.progress.flush()
        state = self.rank_extra()
        if self.pinned_generators is not None:
            state["generators"] = self.pinned_generators
        return self.keeper.save(self.subject, self.standing(), state, is_best)

    def standing(self) -> Standing:
        position = {"epoch": self.epoch, "samples": self.samples, "seed": self.seed}
        extra = {"lr_factor": self.lr_factor, "data": self.data, **self.extra()}
        return Standing(self.step, position, self.global_batch, extra)

    def _leave(self) -> None:
        self.progress.flush()
        self.link.flush()
        if not self.last_words.has_failed:
            self.transport.close()
        else:  # closing may wait for peers forever; let Gloo's threads drop their last tensors,
            time.sleep(0.1)  # which aborts the process once Python is gone
