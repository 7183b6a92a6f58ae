"""What is put in the place of a module's `forward`: computing again in backward, torch.compile.

Only the attribute `forward` of the module changes: it stays the object that it was, with its names,
its hooks and its state_dict.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from dto.errors import ConfigError
from dto.runtime.mesh import Layout
from dto.runtime.recipe import Recipe, require_compilable

log = logging.getLogger(__name__)
Forward = Callable[..., Any]


def arrange_forward(model: nn.Module, recipe: Recipe, layout: Layout) -> None:
    """Change the model's forward as the recipe asks; once, however often it is called.

    A pipeline computes its layers again by itself.

    Raises:
        ConfigError: the model has nothing to compute again, or cannot be compiled here.
    """
    is_compiled = _came_compiled(model)
    if is_compiled:
        require_compilable(layout)
    if recipe.activation_checkpointing and layout.mesh.pp == 1:
        recompute_blocks(model)
    if recipe.compiles and not is_compiled and not isinstance(_own(model), Compiled):
        model.forward = Compiled(model.forward, compile_options(model, recipe.compile))


# activation checkpointing


def recompute_blocks(model: nn.Module) -> int:
    """Let every block keep its inputs alone during forward; returns how many blocks there are.

    Raises:
        ConfigError: there are none.
    """
    blocks = find_blocks(model)
    if not blocks:
        raise ConfigError(
            "activation_checkpointing finds no blocks: it computes again what lies in an"
            " nn.Sequential or nn.ModuleList; put the model's layers into one"
        )
    fresh = [block for block in blocks if not isinstance(_own(block), Recomputed)]
    for block in fresh:
        block.forward = Recomputed(block.forward)
    if fresh:
        log.info("activation checkpointing: %d blocks are computed again in backward", len(blocks))
    return len(blocks)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Children of the outermost nn.Sequential and nn.ModuleList, each once.

    Where some have layers of their own, only those; else those with parameters.
    """
    children = list({id(block): block for block in _listed(model)}.values())
    deep = [block for block in children if any(True for _ in block.children())]
    return deep or [block for block in children if any(True for _ in block.parameters())]


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential | nn.ModuleList):
        yield from module.children()
        return
    for child in module.children():
        yield from _listed(child)


class Recomputed:
    """A block's forward that runs a second time in backward, in place of keeping what it made."""

    def __init__(self, inner: Forward) -> None:
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.inner(*args, **kwargs)
        if torch.compiler.is_compiling():  # it follows a plain checkpoint only
            return checkpoint(self.inner, *args, use_reentrant=False, **kwargs)
        values = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        before = [value._version for value in values]
        output = checkpoint(
            self.inner, *args, use_reentrant=False, context_fn=self._contexts, **kwargs
        )
        if [value._version for value in values] != before:
            raise ConfigError(
                f"{type(self._module).__name__} changes its input in place, so it cannot be"
                " computed again: make that inplace=False, or leave activation_checkpointing out"
            )
        return output

    @property
    def _module(self) -> nn.Module:
        module = getattr(self.inner, "__self__", None)
        return module if isinstance(module, nn.Module) else nn.Identity()

    def _contexts(self) -> tuple[Any, Any]:
        return contextlib.nullcontext(), _without_statistics(self._module)


@contextlib.contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm leaves its running statistics alone: it has counted this batch already."""
    norms = [m for m in block.modules() if isinstance(m, _NormBase) and m.training]
    counted = [(norm, name, value) for norm in norms for name, value in norm.named_buffers()]
    try:
        for norm, name, value in counted:
            setattr(norm, name, value.clone())
        yield
    finally:
        for norm, name, value in counted:
            setattr(norm, name, value)


# torch.compile


class Compiled:
    """A compiled forward; hooks of the model stay outside of it, and copies compile their own."""

    def __init__(self, inner: Forward, options: Mapping[str, Any]) -> None:
        self.inner, self._options = inner, options
        self._compiled = torch.compile(inner, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._compiled(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, tuple[Forward, Mapping[str, Any]]]:
        return (Compiled, (self.inner, self._options))


def compile_options(model: nn.Module, asked: bool | Mapping[str, Any]) -> dict[str, Any]:
    """What to call torch.compile with.

    Raises:
        ConfigError: it takes no such option, or needs a compiler that is not there.
    """
    options = dict(asked) if isinstance(asked, Mapping) else {}
    known = [name for name in inspect.signature(torch.compile).parameters if name != "model"]
    unknown = [str(name) for name in options if name not in known]
    if unknown:
        raise ConfigError(
            f"torch.compile has no option {', '.join(unknown)}: it takes {', '.join(known)}"
        )
    on_cpu = any(parameter.device.type == "cpu" for parameter in model.parameters())
    compiler = os.environ.get("CXX", "g++")
    is_inductor = options.get("backend", "inductor") == "inductor"
    if on_cpu and is_inductor and shutil.which(compiler) is None:
        raise ConfigError(
            f"compile=True needs a C++ compiler for the CPU, and there is no {compiler}: install"
            " one, or leave compile out"
        )
    return options


def _came_compiled(model: nn.Module) -> bool:
    """Whether the script has called torch.compile; where it has not, that is not imported here."""
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)


def _own(module: nn.Module) -> Any:
    """What stands in the place of the class's forward, if anything does."""
    return vars(module).get("forward")
