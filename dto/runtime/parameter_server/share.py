"""A worker's side of one server's share: gradients in a row, parameters in a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from dto.errors import ConfigError, DtoError
from dto.runtime.parameter_server.rules import share_out


class Share:
    """The parameters that one server keeps, with room to send and receive them in a row."""

    def __init__(self, server: int, parameters: list[nn.Parameter], numbers: list[int]) -> None:
        self.server, self.parameters, self.numbers = server, parameters, numbers
        self._sizes = [p.numel() for p in parameters]
        dtype = parameters[0].dtype if parameters else torch.float32
        self.gradients = torch.zeros(sum(self._sizes), dtype=dtype)
        self.incoming = torch.zeros(sum(self._sizes), dtype=dtype)

    def _pieces(self, flat: torch.Tensor) -> list[tuple[nn.Parameter, torch.Tensor]]:
        parts = torch.split(flat, self._sizes) if self._sizes else ()
        shaped = [part.view(p.shape) for p, part in zip(self.parameters, parts, strict=True)]
        return list(zip(self.parameters, shaped, strict=True))

    def take_gradients(self, arrived: list[bool]) -> list[bool]:
        """Move gradients into the row; whether there was one, by parameter."""
        used = []
        for number, (p, place) in zip(self.numbers, self._pieces(self.gradients), strict=True):
            if p.grad is not None and p.grad.is_sparse:
                raise DtoError("a sparse gradient cannot be pushed: use Embedding(sparse=False)")
            used.append(arrived[number] and p.grad is not None)
            if p.grad is not None and arrived[number]:
                place.copy_(p.grad)
            else:
                place.zero_()
            p.grad = None
        return used

    def put_parameters(self, flat: torch.Tensor) -> None:
        """Overwrite the model's own with those in the row."""
        with torch.no_grad():
            for p, piece in self._pieces(flat):
                p.copy_(piece)


def make_shares(trained: Sequence[nn.Parameter], servers: int) -> list[Share]:
    """One for each server, by its number."""
    shares = share_out([p.numel() for p in trained], servers)
    return [
        Share(server, [trained[n] for n in numbers], numbers)
        for server, numbers in enumerate(shares)
    ]


def trained_by(model: nn.Module, optimizer: Optimizer) -> list[nn.Parameter]:
    """What the optimizer steps, in the model's order."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad and id(p) in stepped]
    if not trained:
        raise ConfigError("the optimizer steps no parameter of this model: nothing to serve")
    foreign = stepped - {id(p) for p in model.parameters()}
    if foreign:
        raise ConfigError(
            f"the optimizer holds {len(foreign)} parameters that are not the model's: a parameter"
            " server takes one model and its optimizer"
        )
    kinds = {str(p.dtype).removeprefix("torch.") for p in trained}
    if len(kinds) > 1:
        raise ConfigError(
            f"a parameter server takes parameters of one type, not {', '.join(sorted(kinds))}:"
            " convert the model with model.to(dtype)"
        )
    return trained
