"""Messages between the stages of a pipeline: sending never waits, receiving can be begun early."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist

from dto.errors import ConfigError, WorldError

_TEXT_BYTES = 2048
_MOST_TENSORS = 16


class What(IntEnum):
    """What a message carries."""

    ACTIVATION = 0
    GRADIENT = 1
    SHAPES = 2
    BATCH = 3
    TIED = 4


@dataclass(frozen=True)
class Message:
    """The name of a message. `number` is its micro-batch, `part` the part that it is for."""

    what: What
    peer: int
    """The stage at the other end."""
    number: int = 0
    part: int = 0

    def __str__(self) -> str:
        named = f"the {self.what.name.lower()} of micro-batch {self.number}"
        return named if self.what < What.BATCH else f"the {self.what.name.lower()} message"


@dataclass(frozen=True)
class Shape:
    """All that must be known of a tensor before it comes."""

    sizes: tuple[int, ...]
    dtype: torch.dtype
    has_gradient: bool

    @staticmethod
    def of(tensor: torch.Tensor) -> Shape:
        return Shape(tuple(tensor.shape), tensor.dtype, tensor.requires_grad)


class UnderWay:
    """Tensors on their way; `wait` returns them."""

    def __init__(self, links: Links, message: Message, tensors: list[torch.Tensor]) -> None:
        self._links, self._message, self._tensors = links, message, tensors
        self.works: list[Any] = []

    def wait(self) -> list[torch.Tensor]:
        """Return when the tensors may be used again.

        Raises:
            WorldError: the other stage went away, or sent something else.
        """
        rank = self._links.global_rank(self._message.peer)
        lost = f"stage {self._message.peer} (rank {rank}) at {self._message}"
        with _naming(f"stage {self._links.stage} lost {lost}"):
            for work in self.works:
                work.wait()
        return self._tensors


class Links:
    """One stage's connections to the others of its group. Needs a transport that can send."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        joined = dist.is_initialized()
        self.group = group
        self.stage = dist.get_rank(group) if joined else 0
        self.stages = dist.get_world_size(group) if joined else 1
        self._kept: dict[Message, list[torch.Tensor]] = {}  # what a lone stage sends to itself
        backends = dist.get_backend_config(group) if joined else ""
        if self.stages > 1 and "cpu:gloo" not in backends:
            raise ConfigError(
                f"a pipeline sends messages by name, which {backends} cannot: use gloo"
            )

    def global_rank(self, stage: int) -> int:
        return stage if self.group is None else dist.get_global_rank(self.group, stage)

    def send(self, message: Message, tensors: Sequence[torch.Tensor]) -> UnderWay:
        """Start sending; the tensors must not change until it is waited for."""
        if len(tensors) > _MOST_TENSORS:
            raise ConfigError(f"{message} has {len(tensors)} tensors: at most {_MOST_TENSORS} go")
        ready = [tensor.detach().contiguous() for tensor in tensors]
        sent = UnderWay(self, message, ready)
        if message.peer == self.stage:
            self._kept[message] = ready
            return sent
        peer = self.global_rank(message.peer)
        for index, tensor in enumerate(ready):
            tag = self._tag(message, index)
            sent.works.append(dist.isend(tensor, peer, group=self.group, tag=tag))
        return sent

    def receive(self, message: Message, shapes: Sequence[Shape]) -> UnderWay:
        """Start receiving tensors of these shapes."""
        if message.peer == self.stage:
            return UnderWay(self, message, self._kept.pop(message))
        ready = [torch.empty(shape.sizes, dtype=shape.dtype) for shape in shapes]
        coming = UnderWay(self, message, ready)
        peer = self.global_rank(message.peer)
        for index, tensor in enumerate(ready):
            tag = self._tag(message, index)
            coming.works.append(dist.irecv(tensor, peer, group=self.group, tag=tag))
        return coming

    def _tag(self, message: Message, index: int) -> int:
        name = (message.number * 1024 + message.part) * len(What) + message.what
        return name * _MOST_TENSORS + index

    # small things

    def send_text(self, message: Message, value: Any) -> UnderWay:
        """Send what JSON can say."""
        text = json.dumps(value).encode()
        if len(text) > _TEXT_BYTES:
            raise ConfigError(f"{message} is too long to send: {text[:60].decode()}…")
        padded = bytearray(text.ljust(_TEXT_BYTES))
        return self.send(message, [torch.frombuffer(padded, dtype=torch.uint8)])

    def receive_text(self, message: Message) -> Any:
        shape = Shape((_TEXT_BYTES,), torch.uint8, False)
        (text,) = self.receive(message, [shape]).wait()
        return json.loads(bytes(text.tolist()))

    def send_shapes(self, message: Message, shapes: Sequence[Shape]) -> UnderWay:
        rows = [[s.sizes, str(s.dtype).removeprefix("torch."), s.has_gradient] for s in shapes]
        return self.send_text(message, rows)

    def receive_shapes(self, message: Message) -> list[Shape]:
        rows = self.receive_text(message)
        return [Shape(tuple(sizes), getattr(torch, name), has) for sizes, name, has in rows]

    # everybody

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every stage's value, by stage."""
        gathered: list[Any] = [value] * self.stages
        if self.stages > 1:
            dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def broadcast(self, tensor: torch.Tensor, stage: int) -> None:
        """Overwrite `tensor` with the one of `stage`, in place."""
        if self.stages > 1:
            with _naming(f"stage {self.stage} lost another at the message to all"):
                dist.broadcast(tensor, src=self.global_rank(stage), group=self.group)


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say who is gone and what was to come, without Gloo's source line and advice."""
    try:
        yield
    except RuntimeError as error:
        raise WorldError(f"{what}: {str(error).split('] ', 1)[-1].split('. ')[0]}") from None
