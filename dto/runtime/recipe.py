"""How a model is trained on many ranks: strategy, mesh, batches, precision; checked at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from dto.errors import ConfigError, UsageError
from dto.runtime.mesh import Layout, lay_out
from dto.runtime.parameter_server.rules import staleness_of

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SCHEDULES = ("gpipe", "1f1b", "interleaved")
_SWITCHES = ("sequence_parallel", "activation_checkpointing", "deterministic")


@dataclass(frozen=True)
class Recipe:
    """Further options of `DistributedTrainer`, by keyword."""

    strategy: str = "ddp"
    """ddp, zero1, zero2, zero3 (= fsdp), pipeline, tensor or ps."""
    mesh: Mapping[str, int] | None = None
    """Sizes of the axes dp, pp and tp, such as {"dp": 2, "pp": 2}; one left out gets the rest."""
    implementation: str = "dto"
    """"torch": torch's own DDP, fully_shard, pipelining and DTensor (`backend="torch"`)."""
    accumulation_steps: int = 1
    """Each rank cuts its part of the global batch into so many pieces, one after another. In a
    pipeline the micro-batches are these pieces, whatever is said here."""
    micro_batches: int | None = None
    """Of a pipeline; twice the stages if not given."""
    schedule: str = "1f1b"
    """Of a pipeline: gpipe, 1f1b or interleaved."""
    precision: str = "fp32"
    """fp32; bf16 or fp16: autocast around forward, fp16 with a gradient scaler."""
    clip_grad_norm: float | None = None
    """The highest norm of all gradients together."""
    communication: str | None = None
    """The all-reduce of gradients: ring, tree, halving_doubling, hierarchical; None: native."""
    units: Sequence[str] | None = None
    """Of ZeRO: patterns of names of modules that are gathered as one (`dto.Zero`)."""
    stages: Sequence[Sequence[str]] | None = None
    """Of a pipeline: patterns of names of what each stage holds; None: equal costs."""
    tensor_plan: Mapping[str, str] | None = None
    """Of tensor parallelism: how modules are cut, by patterns; None: the model's own plan."""
    sequence_parallel: bool = False
    """Of tensor parallelism: what is not cut works on a part of each sequence."""
    server_mode: str = "synchronous"
    """Of a parameter server: synchronous, asynchronous or bounded."""
    staleness: int | None = None
    """Of mode bounded: how many steps a rank may be ahead of the slowest."""
    servers: int = 1
    """Of a parameter server: how many ranks keep a share of the parameters."""
    activation_checkpointing: bool = False
    """Blocks of nn.Sequential and nn.ModuleList keep their inputs alone and compute the rest again
    in backward (Chen et al., arXiv 1604.06174): less memory, about a third more time."""
    compile: bool | Mapping[str, Any] = False
    """forward goes through torch.compile; or its options. Not with zero3 or a pipeline."""
    deterministic: bool = False
    """No operation whose bits differ from run to run; with `seed` two runs are bit-equal."""

    @property
    def compiles(self) -> bool:
        return self.compile is not False

    @property
    def chunks(self) -> int:
        """Parts of the model that each stage of a pipeline has."""
        return 2 if self.schedule == "interleaved" else 1

    def check(self) -> None:
        """Raise ConfigError, naming what is legal, where a value is not."""
        _one_of("implementation", self.implementation, ("dto", "torch"))
        _one_of("precision", self.precision, tuple(PRECISIONS))
        _one_of("schedule", self.schedule, SCHEDULES)
        for name in ("accumulation_steps", "micro_batches"):
            value = getattr(self, name)
            is_left_out = value is None and name == "micro_batches"
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if not is_left_out and not (is_whole and value >= 1):
                raise ConfigError(f"{name} is {value!r}: give a whole number from 1 on")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}: give True or False")
        if not isinstance(self.compile, bool | Mapping):
            raise ConfigError(f"compile is {self.compile!r}: give True or torch.compile's options")
        if self.clip_grad_norm is not None and not _is_positive(self.clip_grad_norm):
            raise ConfigError(f"clip_grad_norm is {self.clip_grad_norm!r}: give more than 0")
        staleness_of(self.server_mode, self.staleness)
        if self.communication is not None:
            from dto.runtime.collectives import ALGORITHMS

            _one_of("communication", self.communication, ALGORITHMS)

    def is_plain(self, layout: Layout) -> bool:
        """Data parallelism of dto's own on the transport's all-reduce: needs no optimizer."""
        is_native = self.communication in (None, "native")
        return layout.name == "ddp" and self.implementation == "dto" and is_native

    def layout(self, world: int) -> Layout:
        """Its place on this many ranks.

        Raises:
            ConfigError: they do not fit, or options do not go together.
        """
        found = lay_out(self.strategy, self.mesh, world)
        for is_wrong, why in self._conflicts(found):
            if is_wrong:
                raise ConfigError(why)
        if self.compiles:
            require_compilable(found)
        return found

    def _conflicts(self, found: Layout) -> Iterator[tuple[bool, str]]:
        is_server, is_cut = found.data == "ps", found.mesh.pp > 1
        yield (
            self.communication not in (None, "native") and found.data != "ddp",
            f"communication={self.communication!r} is the all-reduce of ddp's gradients:"
            f" {found.name} has none; leave it out",
        )
        yield (
            self.sequence_parallel and is_cut,
            "sequence_parallel does not go with a pipeline, which hands whole sequences on:"
            " leave it out, or use a mesh of dp and tp",
        )
        yield (
            self.precision == "fp16" and (is_cut or is_server),
            f"{found.name} has no gradient scaler: use precision='bf16' or fp32",
        )
        yield (
            not is_server and (self.server_mode, self.servers) != ("synchronous", 1),
            f"server_mode, staleness and servers are a parameter server's: {found.name} has none;"
            " use strategy='ps'",
        )
        yield (
            self.implementation == "torch" and is_server,
            "torch has no parameter server: use the strategy with backend='auto'",
        )


def require_compilable(layout: Layout) -> None:
    """Raise ConfigError where torch.compile cannot see the whole forward pass of a rank."""
    if layout.data == "zero3" or layout.mesh.pp > 1:
        raise ConfigError(
            f"torch.compile does not go with {layout.name}, where forward waits for other ranks'"
            " parameters or layers: compile with ddp, zero1, zero2, tensor or ps"
        )


def recipe_of(options: Mapping[str, object]) -> Recipe:
    """A checked recipe from keyword arguments.

    Raises:
        UsageError: one is unknown.
        ConfigError: one has a value that cannot be.
    """
    known = [field.name for field in fields(Recipe)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(
            f"DistributedTrainer has no option {', '.join(unknown)}: besides its own arguments it"
            f" takes {', '.join(known)}"
        )
    recipe = Recipe(**options)  # type: ignore[arg-type]
    recipe.check()
    return recipe


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _one_of(name: str, value: object, legal: Sequence[str]) -> None:
    if value not in legal:
        raise ConfigError(f"{name} is {value!r}: use one of {', '.join(legal)}")
