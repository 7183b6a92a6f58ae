"""What a collective says to a call that cannot be meant; a world of one refuses it, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dto.errors import UsageError
from dto.runtime.collectives import Collectives
from dto.runtime.transport.local import LocalTransport

Call = Callable[[Collectives], Any]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.all_reduce([1, 2]), "all_reduce takes a tensor, not list"),
        (lambda c: c.all_gather(None), "all_gather takes a tensor, not NoneType"),
        (lambda c: c.all_reduce(torch.zeros(2), "rnig"), "use one of ring, tree"),
        (lambda c: c.reduce_scatter(torch.zeros(2), "max"), "use sum or mean"),
        (lambda c: c.all_reduce(torch.zeros(2).int(), reduction="mean"), "use sum, then divide"),
        (lambda c: c.all_reduce(torch.zeros(2).cfloat()), "not torch.strided of torch.complex64"),
        (lambda c: c.broadcast(torch.zeros(2), root=1), "no rank 1"),
        (lambda c: c.all_reduce(torch.zeros(2), timeout_seconds=0), "must be more than 0, not 0"),
        (lambda c: c.all_gather(torch.zeros([1] * 9)), "up to 8 dimensions, not 9"),
    ],
)
def test_a_call_that_cannot_be_meant_is_refused_in_one_line(call: Call, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(Collectives(LocalTransport(), "here"))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_choice_is_told_in_one_line() -> None:
    told = Collectives(LocalTransport(), "here").explain(1000)
    assert told == "all-reduce by native: a world of one has nothing to send"
