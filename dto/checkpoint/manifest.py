"""A checkpoint's manifest: every tensor, every file with its hash, where training stood."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from dto.errors import CheckpointError

VERSION = 1


@dataclass(frozen=True)
class TensorEntry:
    """One stored piece of a tensor: its flat range [start, end) lies in `file` under `name`.

    Several of one tensor in one file lie there as one, in the order of their ranges.
    """

    name: str  # global: "model/fc.weight", "optim/fc.weight/exp_avg"
    shape: tuple[int, ...]  # of the whole tensor, not of the piece
    dtype: str
    file: str
    range: tuple[int, int]
    replicas: list[int]  # ranks that held the same values when this was written


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


@dataclass(frozen=True)
class Manifest:
    """Enough to go on from a checkpoint on any number of workers."""

    step: int
    parent: str | None
    attempt: int
    generation: int
    world: int
    strategy: str
    global_batch: int
    position: dict[str, Any]  # {"epoch", "samples", "seed"}: samples counts the global order
    tensors: list[TensorEntry]
    optimizer: dict[str, Any]
    files: dict[str, dict[str, Any]]  # name -> {"sha256", "bytes"}
    extra: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    versions: dict[str, str] = field(default_factory=_versions)
    version: int = VERSION

    def to_json(self) -> str:
        """Text of manifest.json; its last key is a digest of all the others."""
        body = asdict(self)
        body["tensors"] = [asdict(entry) for entry in self.tensors]
        return _seal(body)

    @staticmethod
    def from_json(text: str | bytes) -> Manifest:
        """Read what `to_json` wrote; one changed byte anywhere is a CheckpointError."""
        body = _unseal(text)
        version = body.get("version")
        if version != VERSION:
            raise CheckpointError(
                f"manifest version {version!r} is not {VERSION}: read it with the dto that wrote it"
            )
        values = {f.name: _field(body, f.name, _KINDS[f.name]) for f in fields(Manifest)}
        values["tensors"] = [_entry(raw, n) for n, raw in enumerate(values["tensors"])]
        for name, record in values["files"].items():
            if not isinstance(record, dict) or not {"sha256", "bytes"} <= record.keys():
                raise CheckpointError(f"manifest field files[{name!r}] lacks sha256 or bytes")
        return Manifest(**values)


_KINDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "parent": (str, type(None)),
    "attempt": (int,),
    "generation": (int,),
    "world": (int,),
    "strategy": (str,),
    "global_batch": (int,),
    "position": (dict,),
    "tensors": (list,),
    "optimizer": (dict,),
    "files": (dict,),
    "extra": (dict,),
    "created": (int, float),
    "versions": (dict,),
    "version": (int,),
}


def entries_for(
    tensors: Mapping[str, torch.Tensor], file: str, replicas: Sequence[int] = (0,)
) -> list[TensorEntry]:
    """Entries for whole tensors that one `Store.write(..., file, tensors)` puts on disk."""
    return [
        TensorEntry(
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            file=file,
            range=(0, tensor.numel()),
            replicas=list(replicas),
        )
        for name, tensor in tensors.items()
    ]


def _dump(body: Mapping[str, Any]) -> str:
    try:
        return json.dumps(body, separators=(",", ":"), allow_nan=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the manifest cannot be written as JSON: {error}") from error


def _seal(body: dict[str, Any]) -> str:
    digest = hashlib.sha256(_dump(body).encode()).hexdigest()
    return _dump({**body, "digest": digest}) + "\n"


def _unseal(text: str | bytes) -> dict[str, Any]:
    try:
        plain = text.decode() if isinstance(text, bytes) else text
        body = json.loads(plain)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise CheckpointError(f"manifest.json is not JSON: {error}") from error
    # comparing the whole text catches what a parser forgives: spaces, repeated keys, escapes
    if not isinstance(body, dict) or "digest" not in body:
        raise CheckpointError("manifest field digest is missing")
    digest = body.pop("digest")
    if _seal(body) != plain or not isinstance(digest, str):
        raise CheckpointError("manifest field digest does not fit the rest: the file was changed")
    return body


def _field(body: Mapping[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
    if name not in body:
        raise CheckpointError(f"manifest field {name} is missing")
    value = body[name]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise CheckpointError(f"manifest field {name} has the wrong type: {value!r:.80}")
    return value


def _entry(raw: Any, number: int) -> TensorEntry:
    where = f"manifest field tensors[{number}]"
    if not isinstance(raw, dict):
        raise CheckpointError(f"{where} is not an object")
    missing = [f.name for f in fields(TensorEntry) if f.name not in raw]
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}")
    start, end = raw["range"]
    return TensorEntry(
        name=raw["name"],
        shape=tuple(raw["shape"]),
        dtype=raw["dtype"],
        file=raw["file"],
        range=(start, end),
        replicas=list(raw["replicas"]),
    )
