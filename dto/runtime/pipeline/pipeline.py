"""A model cut into stages, one per rank; micro-batches flow through them as a schedule says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from dto.errors import ConfigError
from dto.runtime.pipeline.engine import Engine, MicroBatch, StageEngine
from dto.runtime.pipeline.links import Links
from dto.runtime.pipeline.partition import count_costs, cut, layers_of, measure_costs
from dto.runtime.pipeline.schedule import make_plan
from dto.runtime.pipeline.tied import Tied, TiedWeights
from dto.runtime.sameness import describe_model, require_same
from dto.runtime.transport import Transport, open_transport
from dto.runtime.world import read_world

BACKENDS = ("dto", "torch")


class Pipeline:
    """Trains a model that is spread over the ranks of a group, stage after stage.

    Every rank builds the same model, hands it over, and calls `step` with the same batches; this
    rank's stage keeps its layers and lets go of the others. Parameters start as rank 0 has them.
    An optimizer takes `pipeline.parameters()`. After `step`, gradients are those of the mean loss
    of the whole batch, as one process would have them, if `loss` is a mean over samples and no
    layer mixes samples (BatchNorm sees one micro-batch at a time).

    Args:
        model: an nn.Sequential, a model with `pipeline_stages()`, or a list of modules.
        micro_batches: how many pieces a batch is cut into; more of them, less waiting.
        schedule: "gpipe", "1f1b" or "interleaved".
        loss: called with the model's output and the targets of a micro-batch.
        chunks: parts of the model per stage; 2 for interleaved if not given, else 1.
        costs: what each layer costs, for the cut; `sample`, a micro-batch, has stage 0 measure
            them. Without either, layers are weighed by their parameters.
        group: the ranks of this pipeline; all if not given.
        backend: "torch" has torch.distributed.pipelining carry the schedule out.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        micro_batches: int,
        schedule: str = "1f1b",
        *,
        loss: Callable[..., torch.Tensor],
        chunks: int | None = None,
        costs: Sequence[float] | None = None,
        sample: Any = None,
        group: dist.ProcessGroup | None = None,
        backend: str = "dto",
    ) -> None:
        self._transport = _join()
        self._links = Links(group)
        self.stage, self.stages = self._links.stage, self._links.stages
        self.micro_batches, self.schedule = micro_batches, schedule
        self.chunks = (2 if schedule == "interleaved" else 1) if chunks is None else chunks
        make_plan(self.stages, micro_batches, schedule, self.chunks)  # refuses what cannot be
        layers = layers_of(model)
        whole = model if isinstance(model, nn.Module) else nn.ModuleList(layers)
        self._agree(whole, backend)
        self.cut = cut(self._weigh(layers, costs, sample), self.stages * self.chunks)
        self._start_equal(whole)
        mine = self.cut[self.stage :: self.stages]
        parts = [[layers[number] for number in part] for part in mine]
        self.module = nn.ModuleList(nn.ModuleList(part) for part in parts)
        """This stage's layers, chunk by chunk."""
        self._names, tied = self._find_parameters(whole, layers)
        self._tied = TiedWeights(self._links, tied)
        self._engine = self._make_engine(backend, parts, loss)

    def parameters(self) -> Iterator[nn.Parameter]:
        """This stage's parameters."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This stage's parameters, by their names in the whole model."""
        return iter(self._names.items())

    @property
    def peak_activations(self) -> int:
        """The most micro-batches whose activations were held at once; torch's are not counted."""
        return getattr(self._engine, "peak_activations", 0)

    def step(self, inputs: torch.Tensor | tuple[torch.Tensor, ...], targets: Any) -> float:
        """Take a batch forward and backward; gradients add up. Returns its loss, on every stage.

        Raises:
            ConfigError: the batch has fewer samples than there are micro-batches.
            WorldError: a stage went away, or got another batch.
        """
        batch = self._split(inputs if isinstance(inputs, tuple) else (inputs,), targets)
        self._tied.set_aside()
        loss = torch.tensor([self._engine.run(batch)], dtype=torch.float64)
        self._tied.add_up()
        self._links.broadcast(loss, self.stages - 1)
        return float(loss)

    def close(self) -> None:
        """Leave the world, where this pipeline joined it."""
        if self._transport is not None:
            self._transport.close()

    # setting up

    def _agree(self, whole: nn.Module, backend: str) -> None:
        if backend not in BACKENDS:
            names = ", ".join(BACKENDS)
            raise ConfigError(f"there is no pipeline backend {backend!r}: use one of {names}")
        away = next((p.device for p in whole.parameters() if p.device.type != "cpu"), None)
        if away is not None and self.stages > 1:
            raise ConfigError(f"stages talk through Gloo, from memory, not {away}: use the CPU")
        numbers = f"{self.micro_batches} micro-batches, {self.schedule}, {self.chunks} chunks"
        mine = [f"{numbers}, backend {backend}", *describe_model(whole)]
        require_same(self._links, "another pipeline", mine)

    def _weigh(
        self, layers: Sequence[nn.Module], costs: Sequence[float] | None, sample: Any
    ) -> Sequence[float]:
        """Stage 0's costs, for all must cut alike."""
        if costs is not None and len(costs) != len(layers):
            raise ConfigError(f"{len(costs)} costs for {len(layers)} layers: give one for each")
        if costs is None and sample is not None and self.stage == 0:
            costs = measure_costs(layers, sample)
        decided: Sequence[float] = self._links.all_gather_object(costs or count_costs(layers))[0]
        return decided

    def _start_equal(self, whole: nn.Module) -> None:
        for value in [*whole.parameters(), *whole.buffers()]:
            self._links.broadcast(value.detach(), 0)

    def _find_parameters(
        self, whole: nn.Module, layers: Sequence[nn.Module]
    ) -> tuple[dict[str, nn.Parameter], list[Tied]]:
        """This stage's parameters by name, and which of them other stages hold, too."""
        holders: dict[nn.Parameter, set[int]] = {}
        for part, numbers in enumerate(self.cut):
            for number in numbers:
                for parameter in layers[number].parameters():
                    holders.setdefault(parameter, set()).add(part % self.stages)
        named = list(whole.named_parameters())
        left_out = [name for name, parameter in named if parameter not in holders]
        if left_out:
            raise ConfigError(f"pipeline_stages() leaves out {', '.join(left_out[:3])}")
        names = {name: value for name, value in named if self.stage in holders[value]}
        tied = [
            Tied(number, value, sorted(holders[value]))
            for number, (_, value) in enumerate(named)
            if self.stage in holders[value] and len(holders[value]) > 1 and value.requires_grad
        ]
        return names, tied

    def _make_engine(
        self, backend: str, parts: Sequence[Sequence[nn.Module]], loss: Callable[..., torch.Tensor]
    ) -> Engine:
        if backend == "torch":
            from dto.runtime.pipeline.torch_engine import TorchEngine

            return TorchEngine(self._links, parts, loss, self.micro_batches, self.schedule)
        return StageEngine(self._links, parts, loss, self.micro_batches, self.schedule)

    def _split(self, inputs: tuple[torch.Tensor, ...], targets: Any) -> list[MicroBatch]:
        rows, count = len(inputs[0]), self.micro_batches
        if rows < count:
            raise ConfigError(
                f"a batch of {rows} cannot be cut into {count} micro-batches: use a batch of"
                f" {count} or more, or fewer micro-batches"
            )
        pieces = zip(*(torch.tensor_split(value, count) for value in inputs), strict=True)
        wanted = torch.tensor_split(targets, count)
        return [
            MicroBatch(piece, target, len(piece[0]) / rows)
            for piece, target in zip(pieces, wanted, strict=True)
        ]


def _join() -> Transport | None:
    """Join the world that the launcher made, unless the script did; None where it did."""
    if dist.is_initialized():
        return None
    transport = open_transport("auto", read_world(os.environ), torch.device("cpu"), os.environ)
    if transport.size > 1 and "send" not in transport.capabilities:
        raise ConfigError(
            f"a pipeline needs send and receive, which {transport.name} has not: use gloo"
        )
    return transport
