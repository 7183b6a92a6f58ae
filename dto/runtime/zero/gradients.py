"""Gradients of one block: flat, added up over ranks, and handed to the optimizer's pieces."""

from __future__ import annotations

import torch

from dto.errors import DtoError
from dto.runtime.transport import Handle, Transport
from dto.runtime.zero.block import Block


class Gradients:
    """Takes what backward left in the parameters, and leaves the average in this rank's pieces."""

    def __init__(self, block: Block, transport: Transport) -> None:
        self._block, self._transport = block, transport
        self._keeps_all = block.memory.stage == 1
        self._flat: torch.Tensor | None = None
        self._views: list[torch.Tensor] = []
        self._reduced: torch.Tensor | None = None
        self._handle: Handle | None = None
        self.has_own = False
        """Whether sums of this rank alone wait to be added up over ranks."""

    @property
    def nbytes(self) -> int:
        """Memory that gradients take here between backward and step."""
        seen = {g.untyped_storage().data_ptr(): g.untyped_storage().nbytes() for g in self._kept()}
        return sum(seen.values())

    def _kept(self) -> list[torch.Tensor]:
        own = [self._flat] if self._flat is not None else []
        return own + [p.grad for p in self._block.pieces if p.grad is not None]

    @torch.no_grad()
    def take(self, weight: float) -> None:
        """Add the parameters' gradients, times `weight`, to this rank's sums; none counts as 0."""
        grads = [param.grad for param in self._block.params]
        for param in self._block.params:
            param.grad = None
        if any(grad is not None and grad.layout != torch.strided for grad in grads):
            raise DtoError("a sparse gradient cannot be averaged: use Embedding(sparse=False)")
        if not self.has_own:
            self._fill(grads, weight)
        elif weight and any(grad is not None for grad in grads):
            pairs = zip(self._views, grads, strict=True)
            views, some = zip(*((v, g) for v, g in pairs if g is not None), strict=True)
            torch._foreach_add_(views, some, alpha=weight)
        self.has_own = True

    def _fill(self, grads: list[torch.Tensor | None], weight: float) -> None:
        block, numel = self._block, self._block.layout.numel
        if self._flat is None:
            self._flat = torch.empty(block.layout.padded, dtype=block.dtype, device=block.device)
            self._views = block.views(self._flat)
        else:
            self._move_averages()
        if weight == 0.0:  # whatever is in it, be it NaN
            self._flat.zero_()
            return
        found = [
            torch.zeros(view.numel(), dtype=view.dtype, device=view.device)
            if grad is None
            else grad.reshape(-1)
            for grad, view in zip(grads, self._views, strict=True)
        ]
        torch.cat(found, out=self._flat[:numel])
        self._flat[numel:].zero_()
        if weight != 1.0:
            self._flat.mul_(weight)

    def _move_averages(self) -> None:
        """Averages of an earlier backward, not used up yet, lie where sums will be written."""
        assert self._flat is not None
        for piece in self._block.pieces:
            if piece.grad is not None and _share(piece.grad, self._flat):
                piece.grad = piece.grad.clone()

    @torch.no_grad()
    def start(self) -> None:
        """Begin to add this rank's sums to those of the others."""
        assert self._flat is not None and self.has_own
        self.has_own = False
        if self._flat.dtype == torch.float16:  # the sum may be too much for it
            self._flat.div_(self._transport.size)
        self._reduced = torch.empty_like(self._block.own(self._flat))
        with self._block.naming("averaged"):
            self._handle = self._transport.reduce_scatter_async(self._reduced, self._flat)

    @torch.no_grad()
    def finish(self) -> None:
        """Wait for the sums, and add the averages to the gradients of this rank's pieces."""
        if self._handle is None:
            return
        assert self._reduced is not None and self._flat is not None
        with self._block.naming("averaged"):
            self._handle.wait()
        found, self._handle, self._reduced = self._reduced, None, None
        if found.dtype != torch.float16:
            found.div_(self._transport.size)
        shard = self._block.shard
        if self._keeps_all:
            if found.dtype == shard.dtype and found.device == shard.device:
                found = self._block.own(self._flat).copy_(found)
        else:
            self._flat, self._views = None, []
        found = found.to(dtype=shard.dtype, device=shard.device)
        for piece, part in zip(self._block.pieces, self._block.cut(found), strict=True):
            if piece.grad is None:
                piece.grad = part
            else:
                piece.grad.add_(part)


def _share(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
