"""The trainer's methods for people who save, load and upload by hand."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.bucket import Bucket
from dto.checkpoint.final import States, load_final, save_final
from dto.checkpoint.generators import capture_generators
from dto.checkpoint.legacy import load_legacy
from dto.checkpoint.state import restore
from dto.checkpoint.store import Commit, Store
from dto.checkpoint.torch_file import plain_name
from dto.errors import DtoError, UsageError
from dto.runtime.keeper import Subject
from dto.runtime.place import Place
from dto.runtime.session import Session
from dto.runtime.shards import gather_parts
from dto.runtime.stores import find_commit

log = logging.getLogger(__name__)


class Archive(Place):
    """Checkpoints and final models by hand, and their copies in a bucket of Amazon S3."""

    def __init__(self, session: Session, s3_bucket_arn: str | None) -> None:
        self.session = session
        self._bucket = Bucket(s3_bucket_arn) if s3_bucket_arn else None
        if self._bucket is not None:
            session.keeper.after_commit.append(self._upload)

    @property
    def checkpoint_dir(self) -> Path:
        """Where this run's checkpoints are."""
        return self.session.keeper.store.directory

    @property
    def run_id(self) -> str:
        """The run's name, under which its checkpoints lie in the bucket."""
        directory = self.checkpoint_dir
        return directory.parent.name if directory.name == "checkpoints" else directory.name

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the model that was prepared is complete on every rank, to be called or saved.

        All ranks enter together; then each may do as it likes. What one changes there is not kept.
        """
        parallel = self.session.parallel
        with contextlib.ExitStack() as stack:
            if parallel is not None:
                stack.enter_context(parallel.whole())
            if self.session.recipe.compiles:  # for parts; what is whole has other shapes
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    def save_checkpoint(
        self,
        epoch: int,
        model: nn.Module,
        optimizer: Optimizer,
        metrics: Mapping[str, Any],
        is_best: bool = False,
    ) -> Path | None:
        """Commit a checkpoint of a finished epoch; only rank 0 writes, so any rank may call it.

        Where ranks share the model out, all of them write, and all must call this.
        """
        session, keeper = self.session, self.session.keeper
        is_cut = session.subject is not None and session.subject.cut is not None
        if not session.world.is_master and not is_cut:
            return None
        if keeper.saved_step is not None and session.step <= keeper.saved_step:
            session.step = keeper.saved_step + 1  # a loop whose steps nobody counts
        session.epoch, session.samples = epoch + 1, 0
        standing = session.standing()
        standing = replace(standing, extra={**standing.extra, "metrics": dict(metrics)})
        if is_cut:
            assert session.subject is not None
            return keeper.store.directory / keeper.save(session.subject, standing, {}, is_best)
        states = [{"generators": capture_generators()}]
        keeper.parent = keeper.write(Subject(model, optimizer), standing, states, is_best)
        keeper.saved_step = session.step
        return keeper.store.directory / keeper.parent

    def load_checkpoint(
        self, checkpoint_path: str | Path, model: nn.Module, optimizer: Optimizer | None = None
    ) -> dict[str, Any]:
        """Load one checkpoint, ours or a `.pt` of an older layout; `epoch` is the next to train."""
        path = Path(checkpoint_path)
        if path.is_file():
            old = load_legacy(path, model, optimizer)
            return {"epoch": old.epochs_done, "step": old.step, "metrics": old.metrics}
        commit = find_commit(path)
        manifest, tensors = Store(commit.path.parent).load(commit)
        restore(model, optimizer, tensors, manifest.optimizer)
        metrics = manifest.extra.get("metrics", {})
        return {"epoch": manifest.position["epoch"], "step": manifest.step, "metrics": metrics}

    def get_latest_checkpoint(self) -> str | None:
        """The newest checkpoint of this run whose every byte is right."""
        commit = self.session.keeper.store.latest_valid()
        return str(commit.path) if commit else None

    def save_final_model_to_file(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        final_metrics: Mapping[str, Any],
        model_name: str = "final_model",
    ) -> str | None:
        """Write `<model_name>_<timestamp>.pt` on rank 0; returns its path.

        Where ranks share the model out, all of them call this, and the file holds the whole.
        """
        states = self._gather(model, optimizer)
        if not self.session.world.is_master:
            return None
        directory = self.checkpoint_dir.parent if self.session.in_run else self.checkpoint_dir
        directory.mkdir(parents=True, exist_ok=True)
        path = save_final(directory, model, optimizer, final_metrics, model_name, states)
        if self._bucket is not None:
            self._try_upload(str(path), lambda bucket: bucket.upload_final(path))
        return str(path)

    def _gather(self, model: nn.Module, optimizer: Optimizer) -> States | None:
        subject = self.session.subject
        if subject is None or subject.cut is None or subject.optimizer is not optimizer:
            return None
        weights, state = gather_parts(self.session.transport, subject.cut)
        first: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            shared = first.setdefault(id(parameter), plain_name(name))
            if shared in weights:  # a weight in two places has two names in a state_dict
                weights[plain_name(name)] = weights[shared]
        return weights, state

    def load_final_model(self, model_path: str | Path, model: nn.Module) -> dict[str, Any]:
        """Load what `save_final_model_to_file` wrote; returns its metrics and the rest."""
        return load_final(Path(model_path), model)

    def list_s3_checkpoints(self, run_id: str | None = None) -> list[str]:
        """Keys of the checkpoints in the bucket: of one run, or of all."""
        return self._need_bucket().list_checkpoints(run_id)

    def download_checkpoint_from_s3(self, s3_key: str, local_path: str | Path | None = None) -> str:
        """Fetch one checkpoint, whole or not at all; returns where it is now."""
        target = Path(local_path) if local_path is not None else None
        return str(self._need_bucket().download(s3_key, target))

    def _need_bucket(self) -> Bucket:
        if self._bucket is None:
            raise UsageError("no bucket: make the trainer with s3_bucket_arn=NAME_OR_ARN")
        return self._bucket

    def _upload(self, commit: Commit) -> None:
        self._try_upload(commit.name, lambda bucket: bucket.upload_commit(commit, self.run_id))

    def _try_upload(self, what: str, upload: Any) -> None:
        try:
            upload(self._need_bucket())
        except DtoError as error:  # the copy on disk is good; training goes on, and everyone hears
            log.warning("%s was not uploaded: %s", what, error)
            self.session.link.post("event", name="upload-failed", text=f"{what}: {error}")
