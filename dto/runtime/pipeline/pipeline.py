"""A model cut into stages, one per rank; micro-batches flow through them as a schedule says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from dto.checkpoint.sharded import Held
from dto.errors import ConfigError
from dto.runtime.pipeline.agreement import Agreement
from dto.runtime.pipeline.engine import Engine, MicroBatch, StageEngine
from dto.runtime.pipeline.evaluation import Evaluator, Measure
from dto.runtime.pipeline.layers import Caller
from dto.runtime.pipeline.links import SECONDS, Links
from dto.runtime.pipeline.ownership import Ownership
from dto.runtime.pipeline.partition import count_costs, cut, layers_of, measure_costs
from dto.runtime.pipeline.schedule import make_plan
from dto.runtime.pipeline.tied import TiedWeights
from dto.runtime.sameness import describe_model, require_same
from dto.runtime.transport import Transport, join_world

BACKENDS = ("dto", "torch")


class Pipeline:
    """Trains a model that is spread over the ranks of a group, stage after stage.

    Every rank builds the same model, hands it over, and calls `step` with the same batches; this
    rank's stage keeps its layers and lets go of the others' memory: their parameters keep their
    shapes and read as not a number. Parameters start as rank 0 has them. An optimizer takes
    `pipeline.parameters()`, or is made over the whole model before and handed to `adopt`.

    After `step`, gradients are those of the mean loss of the whole batch, as one process would
    have them, if `loss` is a mean over samples and no layer mixes samples (BatchNorm sees one
    micro-batch at a time).

    Args:
        model: an nn.Sequential, a model with `pipeline_stages()`, or a list of modules.
        micro_batches: how many pieces a batch is cut into; more of them, less waiting.
        schedule: "gpipe", "1f1b" or "interleaved".
        loss: called with the model's output and the targets of a micro-batch.
        chunks: parts of the model per stage; 2 for interleaved if not given, else 1.
        costs: what each layer costs, for the cut; `sample`, a micro-batch, has stage 0 measure
            them. Without either, layers are weighed by their parameters.
        transport: its ranks are the stages; if not given, all ranks of the world. Stages talk by
            Gloo from memory, so the model must be on the CPU.
        backend: "torch" has torch.distributed.pipelining carry the schedule out.
        checkpoint_activations: layers keep their inputs alone and are computed again in backward.
        autocast: compute in this type, as `torch.autocast` does; parameters keep theirs.
        timeout_seconds: how long a stage waits for another.
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
        transport: Transport | None = None,
        backend: str = "dto",
        checkpoint_activations: bool = False,
        autocast: torch.dtype | None = None,
        timeout_seconds: float = SECONDS,
    ) -> None:
        self._is_joined = transport is None
        self.transport = join_world(torch.device("cpu")) if transport is None else transport
        self._links = Links(self.transport, timeout_seconds)
        self.stage, self.stages = self._links.stage, self._links.stages
        self.micro_batches, self.schedule = micro_batches, schedule
        self.chunks = (2 if schedule == "interleaved" else 1) if chunks is None else chunks
        make_plan(self.stages, micro_batches, schedule, self.chunks)  # refuses what cannot be
        layers = layers_of(model)
        whole = model if isinstance(model, nn.Module) else nn.ModuleList(layers)
        self._agree(whole, backend)
        self.cut = cut(self._weigh(layers, costs, sample), self.stages * self.chunks)
        stage_of = [n % self.stages for n, part in enumerate(self.cut) for _ in range(len(part))]
        self._own = Ownership(self._links, whole, layers, stage_of)
        self._start_equal(whole)
        self._own.release()
        mine = self.cut[self.stage :: self.stages]
        parts = [[layers[number] for number in part] for part in mine]
        self.module = nn.ModuleList(nn.ModuleList(part) for part in parts)
        """This stage's layers, chunk by chunk."""
        self._agreement = Agreement(self._links)
        self._tied = TiedWeights(self._links, self._own.tied())
        call = Caller(checkpoint_activations, autocast)
        self._engine = self._make_engine(backend, parts, loss, call)
        self._evaluator = Evaluator(self._links, parts, loss, call)

    def parameters(self) -> Iterator[nn.Parameter]:
        """This stage's parameters."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This stage's parameters, by their names in the whole model."""
        return iter(self._own.parameters().items())

    @property
    def peak_activations(self) -> int:
        """The most micro-batches whose activations were held at once; torch's are not counted."""
        return getattr(self._engine, "peak_activations", 0)

    def step(
        self, inputs: torch.Tensor | tuple[torch.Tensor, ...], targets: Any, scale: float = 1.0
    ) -> float:
        """Take a batch forward and backward; gradients add up. Returns its loss, on every stage.

        Gradients are those of the loss times `scale`: of a loss scaler, or where several pipelines
        share a batch unevenly (its share times their number).

        Raises:
            ConfigError: the batch has fewer samples than there are micro-batches.
            WorldError: a stage went away, or got another batch.
        """
        batch = self._split(inputs, targets)
        if len(batch) < self.micro_batches:
            count, rows = self.micro_batches, len(batch)
            raise ConfigError(
                f"a batch of {rows} cannot be cut into {count} micro-batches: use a batch of"
                f" {count} or more, or fewer micro-batches"
            )
        self._agreement.begin(batch, "training")
        self._tied.set_aside()
        loss = self._engine.run(batch, scale)
        self._tied.add_up()
        return self._agreement.end(loss)[0]

    def evaluate(
        self,
        inputs: torch.Tensor | tuple[torch.Tensor, ...],
        targets: Any,
        measure: Measure | None = None,
    ) -> tuple[float, float]:
        """Take a batch of any size forward, layers as in `eval()`, without gradients.

        Returns, on every stage, its loss and the mean of `measure(output, targets)`, a mean over
        a micro-batch's samples such as the share that is right (0 if not given).

        Raises:
            WorldError: a stage went away, or got another batch.
        """
        batch = self._split(inputs, targets)
        self._agreement.begin(batch, "evaluating")
        loss, measured = self._agreement.end(*self._evaluator.run(batch, measure))
        return loss, measured

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave this stage's parameters in an optimizer made over all of the model's.

        Its groups stay, if need be empty; what it knew of other parameters is dropped.

        Raises:
            ConfigError: it has a parameter that is not the model's.
        """
        self._own.adopt(optimizer)

    def held(self, ranks: Sequence[Sequence[int]] | None = None) -> list[Held]:
        """This stage's parameters for a checkpoint, by their names in the whole model.

        Args:
            ranks: by stage, the global ranks that hold it, where several pipelines train the same
                model; those of this one alone if not given.
        """
        return self._own.held(ranks)

    def held_buffers(self, shared: bool = True) -> dict[str, torch.Tensor]:
        """This stage's part of the buffers in the model's state_dict, by name.

        Without `shared`, each buffer is on one stage only: the one that should save it.
        """
        return self._own.buffers(shared)

    def whole(self) -> AbstractContextManager[None]:
        """Inside, the model is complete on every stage. All enter together."""
        return self._own.whole()

    def close(self) -> None:
        """Leave the world, where this pipeline joined it."""
        if self._is_joined:
            self.transport.close()

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

    def _make_engine(
        self,
        backend: str,
        parts: Sequence[Sequence[nn.Module]],
        loss: Callable[..., torch.Tensor],
        call: Caller,
    ) -> Engine:
        if backend == "torch":
            from dto.runtime.pipeline.torch_engine import TorchEngine

            return TorchEngine(self._links, parts, loss, self.micro_batches, self.schedule, call)
        return StageEngine(self._links, parts, loss, self.micro_batches, self.schedule, call)

    # batches

    def _split(
        self, inputs: torch.Tensor | tuple[torch.Tensor, ...], targets: Any
    ) -> list[MicroBatch]:
        """Micro-batches; as many as there are samples where those are fewer."""
        values = inputs if isinstance(inputs, tuple) else (inputs,)
        rows = len(values[0])
        count = min(self.micro_batches, rows)
        pieces = zip(*(torch.tensor_split(value, count) for value in values), strict=True)
        wanted = torch.tensor_split(targets, count)
        return [
            MicroBatch(piece, target, len(piece[0]) / rows)
            for piece, target in zip(pieces, wanted, strict=True)
        ]
