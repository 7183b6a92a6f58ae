"""An nn.Linear that holds a part of its weight, and the regions where a sequence is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.hooks import RemovableHandle

from dto.errors import ConfigError
from dto.runtime.tensor import functions
from dto.runtime.transport import Transport


def _apply(function: type[Function], *arguments: Any) -> Tensor:
    y: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return y


class Group:
    """The ranks that share layers. While weights are whole, `transport` is that of one rank."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.has_split = False
        """Whether a sequence was ever cut: only then may a layer take a piece of one."""
        self.mesh: Any = None
        """What DTensor calls these ranks, where it computes the layers."""
        # not on import: it takes seconds, which an optimizer costs anyway
        self.apply: Callable[..., Tensor] = torch.compiler.disable(_apply)  # type: ignore[no-untyped-call]
        """Calls a function that sends; torch.compile works around it."""

    def __deepcopy__(self, memo: Any) -> Group:
        return self  # a copied model talks to the same ranks


class SharedLinear(nn.Linear):
    """A layer's part; `in_features` and `out_features` stay those of the whole layer."""

    group: Group
    name: str
    is_split: bool

    @classmethod
    def take_over(cls, layer: nn.Linear, group: Group, name: str, is_split: bool) -> None:
        """Make `layer` one of these; it stays the object that it was, with its hooks."""
        layer.__class__ = cls
        assert isinstance(layer, SharedLinear)
        layer.group, layer.name, layer.is_split = group, name, is_split

    def give_back(self) -> None:
        """Be a plain layer again, of the weights that it has now."""
        self.__class__ = nn.Linear  # type: ignore[assignment]
        del self.group, self.name, self.is_split

    def _ready(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias as autocast wants them: for functions of ours it does nothing."""
        bias = self.bias if "bias" in self._parameters else None
        kind = x.device.type
        if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
            return x, self.weight, bias
        dtype = torch.get_autocast_dtype(kind)
        return x.to(dtype), self.weight.to(dtype), None if bias is None else bias.to(dtype)

    def check_inputs(self, x: Tensor) -> None:
        """Raise ConfigError unless a row layer is given what a column layer made."""
        if x.shape[-1] != self.weight.shape[1]:
            raise ConfigError(
                f"{self.name}, a row layer, got {x.shape[-1]} inputs and holds"
                f" {self.weight.shape[1]} of {self.in_features}: it must follow a column layer"
            )

    def _check_split(self) -> None:
        if self.is_split and not self.group.has_split:
            raise ConfigError(
                f"{self.name} takes a piece of a sequence, but the module marked sequence, in"
                " which it lies, was not called: mark one that is"
            )


class ColumnLinear(SharedLinear):
    """Holds some outputs of the layer, and computes those: [..., inputs] to [..., outputs / n]."""

    def forward(self, input: Tensor) -> Tensor:
        self._check_split()
        x, weight, bias = self._ready(input)
        group = self.group
        return group.apply(functions.Column, x, weight, bias, group.transport, self.is_split)


class RowLinear(SharedLinear):
    """Takes what a column layer made: [..., inputs / n] to [..., outputs], added up over ranks."""

    def forward(self, input: Tensor) -> Tensor:
        self._check_split()
        x, weight, bias = self._ready(input)
        self.check_inputs(x)
        group = self.group
        y = group.apply(functions.Row, x, weight, group.transport, self.is_split)
        return y if bias is None else y + bias  # once, not once per rank


def split_sequence(module: nn.Module, name: str, group: Group) -> list[RemovableHandle]:
    """Have `module` compute on a piece of its first argument, and return the whole again."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, size = args[0], group.transport.size
        if not isinstance(x, Tensor) or x.dim() < 2 or x.shape[-2] % size:
            what = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ConfigError(
                f"{name} got {what}: its first argument must be [..., sequence, width] with a"
                f" sequence that {size} ranks can share evenly"
            )
        group.has_split = True
        return (group.apply(functions.Split, x, group.transport), *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return group.apply(functions.Join, output, group.transport)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def sum_gradient(parameter: nn.Parameter, group: Group) -> RemovableHandle:
    """Add this parameter's gradient up over ranks: each computes it from another piece."""

    def hook(gradient: Tensor) -> Tensor:
        return functions.start_sum(group.transport, gradient.clone())()

    handle: RemovableHandle = parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    return handle
