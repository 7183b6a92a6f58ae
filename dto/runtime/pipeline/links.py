"""Messages between the stages of a pipeline: sending never waits, receiving can be begun early."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch

from dto.errors import ConfigError, PeerLostError, WorldError
from dto.runtime.transport import Message as Moving
from dto.runtime.transport import Messenger, Transport

SECONDS = 1800.0
_TEXT_BYTES = 2048
_MOST_TENSORS = 16


class What(IntEnum):
    """What a message carries."""

    ACTIVATION = 0
    GRADIENT = 1
    SHAPES = 2
    BATCH = 3
    TIED = 4
    FOUND = 5


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
        self.moving: list[Moving] = []

    def wait(self) -> list[torch.Tensor]:
        """Return when the tensors may be used again.

        Raises:
            WorldError: the other stage went away, is too slow, or sent something else.
        """
        try:
            for one in self.moving:
                one.wait(self._links.timeout_seconds)
        except RuntimeError as error:
            raise self._links.lost(self._message, error) from None
        return self._tensors


class Links:
    """One stage's connections to the others of its pipeline.

    Args:
        transport: its ranks are the stages; it must be able to send, and by name.
        timeout_seconds: how long one message may take.
    """

    def __init__(self, transport: Transport, timeout_seconds: float = SECONDS) -> None:
        self.transport, self.timeout_seconds = transport, timeout_seconds
        self.stage, self.stages = transport.rank, transport.size
        self._kept: dict[Message, list[torch.Tensor]] = {}  # what a lone stage sends to itself
        if self.stages == 1:
            return
        if not isinstance(transport, Messenger) or transport.name == "nccl":
            raise ConfigError(
                f"a pipeline sends messages by name, which {transport.name} cannot: use gloo"
            )
        self._messenger: Messenger = transport

    def global_rank(self, stage: int) -> int:
        number: Callable[[int], int] | None = getattr(self.transport, "global_rank", None)
        return stage if number is None else number(stage)

    def lost(self, message: Message, error: RuntimeError) -> WorldError:
        """Say who is gone and what was to come, without Gloo's source line and advice."""
        peer = f"stage {message.peer} (rank {self.global_rank(message.peer)}) at {message}"
        return PeerLostError(f"stage {self.stage} lost {peer}: {self._reason(error)}")

    def _reason(self, error: RuntimeError) -> str:
        text = str(error).split("] ", 1)[-1].split(". ")[0]
        if "imed out" in text:
            return f"no answer within {self.timeout_seconds:g} s"
        return text

    def send(self, message: Message, tensors: Sequence[torch.Tensor]) -> UnderWay:
        """Start sending; the tensors must not change until it is waited for."""
        if len(tensors) > _MOST_TENSORS:
            raise ConfigError(f"{message} has {len(tensors)} tensors: at most {_MOST_TENSORS} go")
        ready = [tensor.detach().contiguous() for tensor in tensors]
        sent = UnderWay(self, message, ready)
        if message.peer == self.stage:
            self._kept[message] = ready
        else:
            self._start(self._messenger.send_async, sent, message, ready)
        return sent

    def receive(self, message: Message, shapes: Sequence[Shape]) -> UnderWay:
        """Start receiving tensors of these shapes."""
        if message.peer == self.stage:
            return UnderWay(self, message, self._kept.pop(message))
        ready = [torch.empty(shape.sizes, dtype=shape.dtype) for shape in shapes]
        coming = UnderWay(self, message, ready)
        self._start(self._messenger.receive_async, coming, message, ready)
        return coming

    def _start(
        self,
        move: Callable[[torch.Tensor, int, int], Moving],
        under_way: UnderWay,
        message: Message,
        tensors: Sequence[torch.Tensor],
    ) -> None:
        try:
            for index, tensor in enumerate(tensors):
                under_way.moving.append(move(tensor, message.peer, self._tag(message, index)))
        except RuntimeError as error:
            raise self.lost(message, error) from None

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
        return self.transport.all_gather_object(value)

    def broadcast(self, tensor: torch.Tensor, stage: int) -> None:
        """Overwrite `tensor` with the one of `stage`, in place."""
        dense = tensor.contiguous()
        try:
            self.transport.broadcast(dense, stage)
        except RuntimeError as error:
            what = f"stage {self.stage} lost another at the message to all"
            raise PeerLostError(f"{what}: {self._reason(error)}") from None
        if dense is not tensor:
            tensor.copy_(dense)
