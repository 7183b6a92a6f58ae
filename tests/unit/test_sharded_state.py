"""Parts of parts: where a shard of a cut layer lies in the whole model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dto.checkpoint.sharded import Held, Outline, Part, capture_held, merge_meta, restore_held
from dto.errors import CheckpointError
from dto.runtime.spread import intersect


@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99)
)
def test_a_shard_of_columns_knows_each_of_its_elements(
    rows: int, width: int, ranks: int, shards: int, seed: int
) -> None:
    """A weight cut by columns over `ranks`, then flat into `shards`: all together are the whole."""
    whole = torch.arange(rows * width * ranks).view(rows, width * ranks)
    shape = tuple(whole.shape)
    found = torch.full((whole.numel(),), -1)
    for rank in range(ranks):
        begin = rank * width
        local = whole[:, begin : begin + width].reshape(-1)
        inner = [
            Part("w", shape, row * width * ranks + begin, row * width * ranks + begin + width, at)
            for row, at in enumerate(range(0, rows * width, width))
        ]
        edges = [local.numel() * n // shards for n in range(shards + 1)]
        for low, high in zip(edges, edges[1:], strict=False):
            shard = torch.cat([torch.full((seed,), -2), local[low:high]])
            for part in intersect(Part("local", tuple(local.shape), low, high, seed), inner):
                found[part.begin : part.end] = part.of(shard)
    assert torch.equal(found.view(shape), whole)


def cut_in_two(weight: torch.Tensor) -> list[Held]:
    """A weight of three elements, and one of padding."""
    halves = (weight[:2].clone(), torch.cat([weight[2:], torch.zeros(1)]))
    parts = (Part("w", (3,), 0, 2), Part("w", (3,), 2, 3))
    return [Held(half, (part,)) for half, part in zip(halves, parts, strict=True)]


def test_state_written_by_two_ranks_comes_back_on_one() -> None:
    pieces, metas, shared = [], [], dict[str, torch.Tensor]()
    for rank, held in enumerate(cut_in_two(torch.tensor([1.0, 2.0, 3.0]))):
        optimizer = torch.optim.Adam([held.tensor.requires_grad_()], lr=0.5)
        held.tensor.grad = torch.ones(2)
        optimizer.step()
        mine, meta = capture_held([held], {}, optimizer, rank)
        pieces += mine
        metas.append(meta)
    meta = merge_meta(metas, optimizer, [["w"]], shared)
    tensors = {p.name: torch.empty(p.shape) for p in pieces}
    for piece in pieces:
        tensors[piece.name].view(-1)[piece.begin : piece.end] = piece.data
    weight = torch.nn.Parameter(torch.zeros(3))
    alone = torch.optim.Adam([weight], lr=0.1)
    outline = Outline({"w": torch.empty(3, device="meta")}, [["w"]])
    restore_held([Held(weight, (Part("w", (3,), 0, 3),))], {}, alone, outline, tensors, meta)
    assert torch.allclose(weight, torch.tensor([0.5, 1.5, 2.5]))
    assert alone.param_groups[0]["lr"] == 0.5
    assert float(alone.state[weight]["step"]) == 1.0
    assert torch.allclose(alone.state[weight]["exp_avg"], torch.full((3,), 0.1))


def test_a_state_of_another_shape_is_refused_by_name() -> None:
    held = cut_in_two(torch.ones(3))[0]
    optimizer = torch.optim.SGD([held.tensor], lr=0.1)
    optimizer.state[held.tensor]["rows"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"the optimizer's rows of w has shape \(7,\)"):
        capture_held([held], {}, optimizer, 0)
