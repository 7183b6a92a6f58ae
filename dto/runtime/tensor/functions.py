"""The mathematics of tensor parallelism: what each rank computes, and what it sends when.

Shoeybi et al., "Megatron-LM" (2019, arXiv 1909.08053), section 3. Y = f(X A) B over n ranks:

    A is cut into columns, B into rows      Y = sum over ranks of f(X A_r) B_r
    forward   X is everywhere already; the sum over ranks is one all-reduce
    backward  dY is everywhere already; dX = sum over ranks of dX_r, one all-reduce

With sequence parallelism (Korthikanti et al., 2022, arXiv 2205.05198) what lies outside such a
pair is cut along the sequence. Each all-reduce becomes an all-gather before the pair and a
reduce-scatter after it, which together send as much, and a rank keeps 1/n of those activations.
The pair's input is not kept whole either: backward gathers it again.

torch keeps a weight as [outputs, inputs], so A's columns are rows of the tensor, and B's rows its
columns. The sequence is the second last dimension, here and everywhere: [..., sequence, width].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from dto.runtime.transport import Transport

Finish = Callable[[], Tensor]
"""Waits for a collective under way and returns its result."""


def start_sum(transport: Transport, x: Tensor) -> Finish:
    """Add `x` up over ranks, in its own memory where that is contiguous."""
    x = x.contiguous()
    handle = transport.all_reduce_async(x)

    def finish() -> Tensor:
        handle.wait()
        return x

    return finish


def start_gather(transport: Transport, x: Tensor) -> Finish:
    """Put everybody's piece of the sequence together: [..., s / n, width] to [..., s, width]."""
    x = x.contiguous()
    flat = x.new_empty(transport.size * x.numel())
    handle = transport.all_gather_async(flat, x.view(-1))

    def finish() -> Tensor:
        handle.wait()
        return torch.cat(flat.view(transport.size, *x.shape).unbind(0), dim=-2)

    return finish


def start_scatter(transport: Transport, x: Tensor) -> Finish:
    """This rank's piece of the sum over ranks: [..., s, width] to [..., s / n, width]."""
    pieces = x.chunk(transport.size, dim=-2)
    flat = torch.cat([piece.reshape(-1) for piece in pieces])
    shard = x.new_empty(pieces[0].shape)
    handle = transport.reduce_scatter_async(shard.view(-1), flat)

    def finish() -> Tensor:
        handle.wait()
        return shard

    return finish


def _rows(x: Tensor) -> Tensor:
    """[..., width] to [rows, width]: a layer treats all of them alike."""
    return x.reshape(-1, x.shape[-1])


class Column(Function):
    """x A_r + b_r. With `is_split`, x is a piece of the sequence and the result is of all of it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, group: Transport, is_split: bool
    ) -> Tensor:
        ctx.group, ctx.is_split = group, is_split
        ctx.save_for_backward(x, weight)
        return linear(start_gather(group, x)() if is_split else x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx = dweight = dbias = None
        # gathered a second time instead of kept: that is where the memory is saved
        gathered = start_gather(ctx.group, x) if ctx.is_split and needs_weight else lambda: x
        if needs_x:
            start = start_scatter if ctx.is_split else start_sum
            summed = start(ctx.group, dy @ weight)  # under way while dweight is computed
        if needs_weight:
            dweight = _rows(dy).t() @ _rows(gathered())
        if needs_bias:
            dbias = _rows(dy).sum(0)
        if needs_x:
            dx = summed()
        return dx, dweight, dbias, None, None


class Row(Function):
    """The sum over ranks of x_r B_r; with `is_split`, only this rank's piece of the sequence."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, group: Transport, is_split: bool) -> Tensor:
        ctx.group, ctx.is_split = group, is_split
        ctx.save_for_backward(x, weight)
        start = start_scatter if is_split else start_sum
        return start(group, linear(x, weight))()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        if ctx.is_split:
            dy = start_gather(ctx.group, dy)()
        dx = dy @ weight if needs_x else None
        dweight = _rows(dy).t() @ _rows(x) if needs_weight else None
        return dx, dweight, None, None


class Split(Function):
    """Where the sequence is cut: what every rank has, to this rank's piece of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Transport) -> Tensor:
        ctx.group = group
        return x.chunk(group.size, dim=-2)[group.rank].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return start_gather(ctx.group, dy)(), None


class Join(Function):
    """Where the sequence is put together. What follows is the same on all ranks, and so is dY."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Transport) -> Tensor:
        ctx.group = group
        return start_gather(group, x)()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return dy.chunk(ctx.group.size, dim=-2)[ctx.group.rank].contiguous(), None
