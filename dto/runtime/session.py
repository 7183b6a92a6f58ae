"""One rank's training, shared by trainer and `distribute`: steps, boundaries, stop, resume."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dto.checkpoint.generators import restore_generators
from dto.checkpoint.store import Store
from dto.errors import ConfigError, WorldError
from dto.runtime.agreement import Agreement
from dto.runtime.data import Size
from dto.runtime.data_parallel import DataParallel
from dto.runtime.every import parse_every
from dto.runtime.keeper import Keeper, Loaded, Standing, Subject, put_back
from dto.runtime.loader import PreparedLoader, units_per_batch
from dto.runtime.progress import Progress, Row
from dto.runtime.sameness import describe_data, require_same, warn_of_other_data
from dto.runtime.seeds import derive, seed_everything
from dto.runtime.settings import Settings, Stopped, choose_device
from dto.runtime.signals import LastWords, StopFlag, show_errors_in_one_line
from dto.runtime.stores import open_store
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
        self.transport = settings.transport or open_transport(
            settings.backend, self.world, self.device, env
        )
        self.world = replace(self.world, rank=self.transport.rank, size=self.transport.size)
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
        self.agreement = Agreement(
            self.transport,
            self.device,
            self.every,
            lambda: self.stop.reason is not None,
            lambda: self.keeper.saved_at,
        )
        self.note_loss = self.agreement.note_loss
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
        self.after_step: Callable[[int, Any], None] = lambda step, loss: None
        self.pinned_generators: dict[str, Any] | None = None
        self.loaded: Loaded | None = None
        """The checkpoint that this process goes on from, until it has arrived there."""
        self._boundary_step = 0
        self._trained = 0
        self.fewest_samples = 1
        """What the rank with the smallest part of the current batch can cut into pieces."""
        atexit.register(self._close)

    def _from_master(self, value: Any) -> Any:
        return self.transport.all_gather_object(value)[0]

    def add_model(self, model: nn.Module) -> None:
        """Equal start on every rank; with data parallelism gradients are averaged from now on."""
        if self._model is model:
            return
        self._model = model.to(self.device)
        if self.world.size > 1 and self.recipe.is_plain(self.layout):
            self.parallel = DataParallel(model, self.transport, self.agreement.outgoing)

    def add_optimizer(
        self, model: nn.Module, optimizer: Optimizer, criterion: Any = None, **objects: Any
    ) -> None:
        """Take charge of what is trained; `objects` are saved with it, None is left out."""
        self.add_model(model)
        known = {name: thing for name, thing in objects.items() if thing is not None}
        if self.subject is not None and self.subject.optimizer is optimizer:
            self.subject.objects = known
            return
        if self.spread is not None and self.spread.model is model:
            raise ConfigError(f"{self.layout.name} has spread this model: keep its first optimizer")
        optimizer.register_step_post_hook(self._stepped)
        cut = None
        if not self.recipe.is_plain(self.layout):
            from dto.runtime.spread import spread_out

            self.spread, cut = spread_out(self, model, optimizer, criterion)
            self.parallel = self.spread
        self.subject = Subject(model, optimizer, known, cut)

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
            saved = self.loaded.manifest if self.loaded is not None else None
            batch = (saved and saved.global_batch) or self.settings.global_batch_size or batch
            self.global_batch, self.data = batch, describe_data(loader)
            require_same(self.transport, "other training data", [self.data, f"batches of {batch}"])
            if saved is not None and self.world.is_master:
                warn_of_other_data(saved.extra.get("data"), self.data)
        listener = self if is_training else None
        place = (self.layout.mesh.dp, self.replica)
        return PreparedLoader(
            loader, *place, self.seed, batch, listener, keeps_step, self._from_master
        )

    def look_for_checkpoint(self, store: Store | None = None, only: str | None = None) -> bool:
        """Read the checkpoint to go on from; the loader and the model learn of it later."""
        self.loaded = self.keeper.load_newest(store or self.keeper.store, only)
        if self.loaded is None:
            return False
        manifest = self.loaded.manifest
        self.seed = int(manifest.position["seed"])
        self.step = self._boundary_step = manifest.step
        self.epoch, self.samples = manifest.position["epoch"], manifest.position["samples"]
        self.lr_factor = manifest.extra.get("lr_factor")
        if self.world.is_master:
            text = f"goes on from step {self.step}: epoch {self.epoch}, sample {self.samples}"
            log.info(text)
            self.link.post("event", name="resumed", text=text)
        return True

    def restore(self) -> None:
        """Put the checkpoint into model and optimizer."""
        if self.loaded is not None and self.subject is not None:
            put_back(self.loaded, self.subject, self.transport)

    # the training loader tells us

    def begin_epoch(self, epoch: int) -> int | None:
        """Samples to skip; None for an epoch that lies wholly behind the checkpoint."""
        if self.loaded is not None and epoch < self.epoch:
            return None
        if self.loaded is None or epoch > self.epoch:
            self.epoch, self.samples = epoch, 0
        return self.samples

    def arrive(self) -> None:
        """Where the checkpoint was taken: whatever the script did on its way here is undone."""
        if self.loaded is not None:
            self.settle()
        elif self.step == 0 and self._trained == 0 and self.settings.seed is not None:
            seed_everything(derive(self.settings.seed, "rank", self.replica))
        self.progress.start()

    def settle(self) -> None:
        """Be exactly where the checkpoint was taken, generators and all."""
        if self.loaded is None:
            return
        self.restore()
        state = self.loaded.rank_state(self.world.rank, self.layout.mesh.sizes)
        if state is not None:
            restore_generators(state["generators"])
        else:  # another world: fresh streams, yet the same ones if this resume is repeated
            seed_everything(derive(self.seed, "rank", self.replica, self.step, self.world.size))
        self.loaded = None

    def begin_batch(self, size: Size) -> None:
        self.agreement.begin(size.own)
        self.fewest_samples = max(1, size.total // self.layout.mesh.dp)
        if self.parallel is not None:
            self.parallel.set_weight(size.own, size.total)

    @property
    def pipeline(self) -> Pipeline | None:
        """What takes batches through this rank's stage, where there are stages."""
        return self.spread.pipeline if self.spread is not None else None

    @property
    def own_samples(self) -> int:
        """How many samples of the current batch count as this rank's."""
        return self.agreement.own

    def end_batch(self, size: Size) -> None:
        self.samples += size.total
        self._trained += size.total
        if self.step != self._boundary_step:
            self._boundary_step = self.last_words.step = self.step
            self._boundary()

    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.subject is not None and optimizer is self.subject.optimizer:
            self.step += 1

    def _boundary(self) -> None:
        control = self.agreement.reached(self.parallel)
        has_loss = self.agreement.has_loss
        loss = control.loss / max(control.samples, 1.0) if has_loss else None
        self.progress.tick(Row(self.step, self.epoch, self._trained, loss))
        self.after_step(self.step, loss)
        if control.stop:
            self.leave()
        elif control.save or self.every.is_step_due(self.step):
            self.save()

    def poll(self) -> None:
        """A place outside training where all ranks are at once: leave, if any was told to."""
        if self.agreement.wants_stop():
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
        extra = {"lr_factor": self.lr_factor, "data": self.data, "mesh": self.layout.mesh.sizes}
        return Standing(self.step, position, self.global_batch, {**extra, **self.extra()})

    def _close(self) -> None:
        self.progress.flush()
        self.link.flush()
        if self.settings.transport is not None:
            return  # whoever gave it to us closes it
        if not self.last_words.has_failed:
            self.transport.close()
        else:  # closing may wait for peers forever; let Gloo's threads drop their last tensors,
            time.sleep(0.1)  # which aborts the process once Python is gone
