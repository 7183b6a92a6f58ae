"""One flat tensor of parameters of which each rank keeps a segment; where ZeRO's stages differ.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (2020).
What a rank has of P parameters between their uses, W ranks, K values of optimizer state each:

    stage   parameters   gradients   optimizer state
    1       P            P           K · P / W
    2       P            P / W       K · P / W
    3       P / W        P / W       K · P / W
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dto.checkpoint.sharded import Held
from dto.errors import PeerLostError
from dto.runtime.transport import Handle, Transport
from dto.runtime.zero.layout import NO_GROUP, Layout


@dataclass(frozen=True)
class Memory:
    """What is kept where, and how exactly."""

    stage: int
    precision: torch.dtype | None = None
    """Of gathered parameters and of gradients on their way; None: as the parameters were."""
    offload: bool = False
    """Segments, and with them the optimizer's state, lie in the CPU's memory."""


class Block:
    """Parameters of one unit, dtype, and kind (trained or frozen)."""

    def __init__(
        self,
        unit: str,
        params: Sequence[nn.Parameter],
        layout: Layout,
        memory: Memory,
        transport: Transport,
    ) -> None:
        """`params` in the order of the layout's slots, all of one dtype and on one device."""
        self.unit, self.params, self.layout, self.memory = unit, list(params), layout, memory
        self._transport, self._begin = transport, transport.rank * layout.segment
        self.is_trained = params[0].requires_grad
        self._handle: Handle | None = None
        self.is_gathered = True
        self._spans = layout.spans(transport.rank)
        self._move_in()
        self._ghost = torch.full((1,), float("nan"), device=self.flat.device).to(self.flat.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters while they are whole, and of gradients on their way."""
        return self.flat.dtype

    @property
    def device(self) -> torch.device:
        return self.flat.device

    @property
    def nbytes(self) -> int:
        """Memory of parameters and pieces."""
        both = (self.flat.untyped_storage(), self.shard.untyped_storage())
        return sum({s.data_ptr(): s.nbytes() for s in both if s.nbytes()}.values())

    # memory

    @torch.no_grad()
    def _move_in(self) -> None:
        """Parameters become views of one flat tensor, which starts as rank 0 has it."""
        first, layout = self.params[0], self.layout
        whole = torch.zeros(layout.padded, dtype=first.dtype, device=first.device)
        torch.cat([p.detach().reshape(-1) for p in self.params], out=whole[: layout.numel])
        with self.naming("started"):
            self._transport.broadcast(whole)
        precision = self.memory.precision if whole.is_floating_point() else None
        self.flat = whole if precision is None else whole.to(precision)
        self.shard = whole[self._begin : self._begin + layout.segment]
        is_offloaded = self.memory.offload and whole.device.type != "cpu"
        if is_offloaded:
            self.shard = self.shard.cpu().pin_memory()
        elif self.memory.stage == 3 or self.flat is not whole:
            self.shard = self.shard.clone()
        self._views = self.views(self.flat)
        self._show(self._views)
        for param in self.params:  # of a step before, done with
            param.grad = None
        self.pieces = [
            nn.Parameter(part, requires_grad=self.is_trained) for part in self.cut(self.shard)
        ]
        """What the optimizer steps instead of the parameters, and beside it what none steps."""

    def own(self, flat: torch.Tensor) -> torch.Tensor:
        """This rank's segment of a flat tensor."""
        return flat[self._begin : self._begin + self.layout.segment]

    def cut(self, segment: torch.Tensor) -> list[torch.Tensor]:
        """The pieces' places in a segment."""
        return [segment[span.begin : span.end] for span in self._spans]

    def stepped(self) -> Iterator[tuple[int, Held]]:
        """What an optimizer's group steps, with the number of the group."""
        for span, held in zip(self._spans, self.held(), strict=True):
            if span.group != NO_GROUP:
                yield span.group, held

    def held(self) -> list[Held]:
        """What this rank keeps, by the names of the whole model."""
        pairs = zip(self._spans, self.pieces, strict=True)
        return [Held(piece, span.parts) for span, piece in pairs]

    # parameters

    def start_gather(self) -> None:
        """Begin to fill the flat tensor with everybody's segments, unless it is or is being."""
        if self.is_gathered or self._handle is not None:
            return
        with torch.no_grad():
            storage = self.flat.untyped_storage()
            if not storage.size():
                storage.resize_(self.flat.numel() * self.flat.element_size())
            own = self.own(self.flat)
            if own.data_ptr() != self.shard.data_ptr():
                own.copy_(self.shard)
            with self.naming("gathered"):
                self._handle = self._transport.all_gather_async(self.flat, own)

    def finish_gather(self) -> None:
        """Return when the parameters are whole."""
        if self._handle is None:
            return
        with self.naming("gathered"), torch.no_grad():
            self._handle.wait()
        self._handle, self.is_gathered = None, True
        if self.memory.stage == 3:
            self._show(self._views)

    def free(self) -> None:
        """Let go of all but this rank's segment. Parameters keep their shapes and read as NaN.

        What autograd has saved of them shares their memory: it is there again once gathered.
        """
        if self.memory.stage == 3 and self.is_gathered:
            self.is_gathered = False
            self._show([self._ghost.expand(slot.shape) for slot in self.layout.slots])
            self.flat.untyped_storage().resize_(0)

    def expire(self) -> None:
        """The segments have changed: what was gathered is out of date."""
        self.free()
        self.is_gathered = False

    def unshard(self) -> None:
        """Give the parameters memory of their own, as exact as the segments."""
        with torch.no_grad(), self.naming("gathered"):
            mine = self.shard.to(self.flat.device)
            whole = torch.empty(self.layout.padded, dtype=mine.dtype, device=mine.device)
            self._transport.all_gather_async(whole, mine).wait()
        self._show([view.clone() for view in self.views(whole)])

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The parameters' places in a flat tensor, in their shapes."""
        return [flat[slot.begin : slot.end].view(slot.shape) for slot in self.layout.slots]

    def _show(self, values: Sequence[torch.Tensor]) -> None:
        for param, value in zip(self.params, values, strict=True):
            param.data = value

    @contextlib.contextmanager
    def naming(self, act: str) -> Iterator[None]:
        """Say which unit it was at, where a peer is lost."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split("] ", 1)[-1].split(". ")[0]
            what = f"unit {self.unit!r}" if self.unit else "the root unit"
            raise PeerLostError(
                f"rank {self._transport.rank} lost another while {what} was {act}: {reason}"
            ) from None
