"""Single `.pt` files of tensors and plain values: written whole, read without running code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dto.errors import CheckpointError
from dto.runs.files import fsync_directory


def save_file(path: Path, content: Mapping[str, Any]) -> None:
    """`torch.save` beside `path`, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    fsync_directory(path.parent)


def load_file(path: Path) -> dict[str, Any]:
    """The dict in a `.pt` file, on the CPU; CheckpointError if it is anything else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint file {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a directory, not a checkpoint file") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors and plain values,"
            f" and code from a checkpoint is never run: {_first_line(error)}"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of a dict")
    return content


def plain_name(name: str) -> str:
    """torch.compile wraps modules as `_orig_mod`; what is saved does not depend on that."""
    return name.replace("_orig_mod.", "")


def load_weights(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Strict load; weights may come from inside DistributedDataParallel or torch.compile."""
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    here = {plain_name(name): name for name in model.state_dict()}
    if state.keys() != here.keys() or any(here[name] != name for name in here):
        state = {here.get(plain_name(name), name): value for name, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # torch lists missing, unexpected and mis-shaped names
        words = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit this model: {words}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
