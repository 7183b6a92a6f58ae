"""Which stage holds which parameters and buffers of the whole model, and what stays of the rest."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from dto.checkpoint.sharded import Held, Part
from dto.errors import ConfigError
from dto.runtime.pipeline.links import Links
from dto.runtime.pipeline.tied import Tied


class Ownership:
    """A stage keeps what its layers use. Of all else only shapes stay, and no memory.

    Args:
        whole: the model that all stages have built; its names are the ones given here.
        layers: what it is cut into.
        stage_of: each layer's stage.
    """

    def __init__(
        self, links: Links, whole: nn.Module, layers: Sequence[nn.Module], stage_of: Sequence[int]
    ) -> None:
        self._links, self._whole = links, whole
        used: dict[int, set[int]] = {}
        for layer, stage in zip(layers, stage_of, strict=True):
            for value in (*layer.parameters(), *layer.buffers()):
                used.setdefault(id(value), set()).add(stage)
        left_out = [n for n, value in whole.named_parameters() if id(value) not in used]
        if left_out:
            raise ConfigError(f"pipeline_stages() leaves out {', '.join(left_out[:3])}")
        everybody = set(range(links.stages))
        self._holders = {n: sorted(used.get(id(v), everybody)) for n, v in self._named()}
        """By name, the stages that hold it; a buffer that no layer has stays with all."""

    def _named(self) -> list[tuple[str, torch.Tensor]]:
        return [*self._whole.named_parameters(), *self._whole.named_buffers()]

    def is_mine(self, name: str) -> bool:
        return self._links.stage in self._holders[name]

    def parameters(self) -> dict[str, nn.Parameter]:
        """This stage's, by their names in the whole model."""
        return {n: value for n, value in self._whole.named_parameters() if self.is_mine(n)}

    def buffers(self, shared: bool = True) -> dict[str, torch.Tensor]:
        """Those of this stage that are part of the model's state_dict.

        Without `shared`, only those that no earlier stage holds: each is then on one stage.
        """
        saved = self._whole.state_dict(keep_vars=True)
        return {
            name: value
            for name, value in self._whole.named_buffers()
            if name in saved
            and self.is_mine(name)
            and (shared or self._holders[name][0] == self._links.stage)
        }

    def tied(self) -> list[Tied]:
        """What other stages hold, too, and is trained."""
        return [
            Tied(number, value, self._holders[name])
            for number, (name, value) in enumerate(self._whole.named_parameters())
            if self.is_mine(name) and len(self._holders[name]) > 1 and value.requires_grad
        ]

    def held(self, ranks: Sequence[Sequence[int]] | None = None) -> list[Held]:
        """This stage's parameters, each whole.

        Args:
            ranks: by stage, the global ranks that hold it; one each if not given.
        """
        if ranks is None:
            ranks = [[self._links.global_rank(stage)] for stage in range(self._links.stages)]
        found = []
        for name, value in self.parameters().items():
            replicas = sorted(rank for stage in self._holders[name] for rank in ranks[stage])
            part = Part(name, tuple(value.shape), 0, value.numel())
            found.append(Held(value, (part,), tuple(replicas) if len(replicas) > 1 else ()))
        return found

    def adopt(self, optimizer: Optimizer) -> None:
        """Take from an optimizer over the whole model what belongs to other stages.

        Groups stay, if need be empty, with their settings; so do the lists of parameters.

        Raises:
            ConfigError: it has a parameter that is not the model's.
        """
        mine = {id(value) for value in self.parameters().values()}
        known = {id(value) for value in self._whole.parameters()}
        for group in optimizer.param_groups:
            strange = next((p for p in group["params"] if id(p) not in known), None)
            if strange is not None:
                raise ConfigError(
                    f"the optimizer has a parameter of shape {tuple(strange.shape)} that is not"
                    " the model's: a pipeline trains the model's alone"
                )
            group["params"][:] = [p for p in group["params"] if id(p) in mine]
        for parameter in [p for p in optimizer.state if id(p) not in mine]:
            del optimizer.state[parameter]

    def release(self) -> None:
        """Let go of the values of what only other stages hold."""
        for name, value in self._named():
            if not self.is_mine(name):
                value.grad = None
                value.data = _blank(value)
        _trim_heap()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every stage has the whole model; all enter together."""
        for name, value in self._named():
            if not self.is_mine(name):
                value.data = torch.empty(value.shape, dtype=value.dtype)
            if len(self._holders[name]) < self._links.stages:
                self._links.broadcast(value.detach(), self._holders[name][0])
        try:
            yield
        finally:
            self.release()


def _blank(value: torch.Tensor) -> torch.Tensor:
    """A tensor of this shape in the memory of one element: not a number, where there is such."""
    nothing = float("nan") if value.is_floating_point() else 0
    return torch.full((), nothing, dtype=value.dtype).expand(value.shape)


def _trim_heap() -> None:
    """Glibc keeps what was freed in the middle of its heap, unless it is told; others don't."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
