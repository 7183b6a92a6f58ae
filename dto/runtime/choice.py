"""What a configuration file comes to on so many ranks, with the reason for each choice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dto.errors import ConfigError
from dto.runtime.config_file import ConfigFile
from dto.runtime.mesh import Layout, lay_out

if TYPE_CHECKING:
    from torch import nn

_CUT = {
    1: "optimizer state is",
    2: "gradients and optimizer state are",
    3: "parameters, gradients and optimizer state are",
}


@dataclass(frozen=True)
class Choice:
    """Arguments of `DistributedTrainer`, and why."""

    strategy: str
    mesh: Mapping[str, int]
    device: str
    layout: Layout
    options: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """One line for each setting."""


def choose(config: ConfigFile, world: int, has_gpus: bool) -> Choice:
    """Decide for `world` ranks; `has_gpus`: each of them can have a GPU of its own.

    Raises:
        ConfigError: the settings do not go together, or not with this number of ranks.
    """
    stages, pipeline = _stages(config, world)
    tp = config.tensor_parallelism
    if world % (stages * tp):
        raise ConfigError(
            f"{world} ranks cannot be shared out to {stages} stages x {tp} parts of each layer:"
            " use a num_gpus that is a multiple"
        )
    mesh = {"dp": world // stages // tp, "pp": stages, "tp": tp}
    micro_batches = config.micro_batches or 2 * stages
    if stages > 1 and config.batch_size < micro_batches:
        raise ConfigError(
            f"batch_size is {config.batch_size}, too little for the {micro_batches} micro-batches"
            " of a pipeline: make it larger, or micro_batches fewer"
        )
    if stages > 1 and config.accumulation_steps > 1:
        raise ConfigError("a pipeline cuts batches by micro_batches: leave accumulation_steps out")
    strategy, zero = _zero(config, mesh)
    device, place = _device(world, stages, has_gpus)
    communication, pattern = _communication(config, strategy, mesh["dp"], device)
    options = {
        "communication": communication,
        "precision": config.precision,
        "accumulation_steps": config.accumulation_steps,
        "micro_batches": config.micro_batches,
    }
    layout = lay_out(strategy, mesh, world)
    reasons = (
        *_ranks(config, world),
        place,
        pipeline,
        *_tensor(tp),
        zero,
        pattern,
        _batches(config, mesh),
    )
    return Choice(strategy, mesh, device, layout, options, reasons)


def _said(value: bool | int | str) -> str:
    return str(value).lower()


def _ranks(config: ConfigFile, world: int) -> list[str]:
    if config.num_gpus == world:
        return []
    return [f"num_gpus: {config.num_gpus} -> not used: the job was started with {world} ranks"]


def _batches(config: ConfigFile, mesh: Mapping[str, int]) -> str:
    copies = f"each of {mesh['dp']} copies" if mesh["dp"] > 1 else "the one copy"
    whole = config.batch_size * mesh["dp"]
    rest = "; a smaller last batch, which might not fill the stages, is left out"
    return (
        f"batch_size: {config.batch_size} -> {whole} samples a step, {config.batch_size} for"
        f" {copies} of the model{rest if mesh['pp'] > 1 else ''}"
    )


def _device(world: int, stages: int, has_gpus: bool) -> tuple[str, str]:
    if not has_gpus:
        return "cpu", f"devices: fewer GPUs here than ranks -> {world} processes on the CPU"
    if stages > 1:
        return "cpu", "devices: stages of a pipeline talk through memory -> processes on the CPU"
    return "auto", f"devices: a GPU for each of {world} ranks"


def _stages(config: ConfigFile, world: int) -> tuple[int, str]:
    asked = config.pipeline_parallelism
    head = f"pipeline_parallelism: {_said(asked)} ->"
    if asked is False:
        return 1, f"{head} each copy of the model has all its layers in one place"
    ranks = max(world // config.tensor_parallelism, 1)
    if asked is not True:
        found = asked
    elif ranks == 1:
        return 1, f"{head} not used: one rank has nobody to pass anything on to"
    else:
        found = next(n for n in range(2, ranks + 1) if ranks % n == 0)
    if ranks % found:
        raise ConfigError(
            f"pipeline_parallelism is {found}, which does not divide {ranks} ranks: use true, or a"
            " number that does"
        )
    beside = ranks // found
    why = f", the fewest that share {ranks} ranks evenly" if asked is True else ""
    more = f"; {beside} such pipelines, each with its own samples" if beside > 1 else ""
    return found, f"{head} {found} stages of layers{why}{more}"


def _tensor(tp: int) -> list[str]:
    return [f"tensor_parallelism: {tp} -> layers are cut over {tp} ranks"] if tp > 1 else []


def _zero(config: ConfigFile, mesh: Mapping[str, int]) -> tuple[str, str]:
    asked, replicas = config.zero_redundancy, mesh["dp"]
    has_pipeline = mesh["pp"] > 1
    head = f"zero_redundancy: {_said(asked)} ->"
    if asked is False:
        return "ddp", f"{head} each copy of the model has all of its optimizer state"
    if has_pipeline and asked is not True and asked > 1:
        raise ConfigError(
            f"zero_redundancy is {asked}, and ZeRO-{asked} does not go with pipeline_parallelism:"
            " use 1 or true, or no pipeline"
        )
    if replicas == 1:
        return "ddp", f"{head} not used: there is one copy of the model, so nothing is redundant"
    stage = (1 if has_pipeline else 2) if asked is True else int(asked)
    why = " (ZeRO-2 and 3 do not go with a pipeline)" if asked is True and has_pipeline else ""
    return f"zero{stage}", f"{head} ZeRO-{stage}: {_CUT[stage]} cut over {replicas} ranks{why}"


def _communication(
    config: ConfigFile, strategy: str, replicas: int, device: str
) -> tuple[str | None, str]:
    pattern = config.communication_pattern
    head = f"communication_pattern: {pattern} ->"
    if replicas == 1:
        return None, f"{head} not used: there is one copy of the model, so nothing to average"
    if strategy != "ddp":
        return None, f"{head} not used: ZeRO sends each part of the gradients to the rank it is for"
    if device != "cpu":
        return None, f"{head} not used: on GPUs NCCL chooses between ring and tree by itself"
    return pattern, f"{head} gradients are averaged over {replicas} ranks by a {pattern} all-reduce"


def shard(config: ConfigFile, choice: Choice, model: nn.Module) -> Choice:
    """Add where this model is cut: `units`, `stages` and `tensor_plan`, and why.

    Raises:
        ConfigError: the file of rules does not fit the model.
    """
    from dto.runtime.sharding import Rules, make_plan, read_rules

    is_manual = config.sharding_strategy == "manual" and config.sharding_rules is not None
    rules = read_rules(config.sharding_rules) if is_manual and config.sharding_rules else Rules()
    mesh, head = choice.layout.mesh, f"sharding_strategy: {config.sharding_strategy} ->"
    plan = make_plan(model, rules, mesh.pp)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    options: dict[str, Any] = {}
    reasons = []
    if choice.layout.zero_stage and mesh.pp == 1:
        options["units"] = [unit for unit in plan.units if unit]
        why = "as the rules say" if rules.units is not None else "repeated blocks are units"
        reasons.append(f"{head} {why}: {_sizes(plan.units, sizes)}")
    if mesh.pp > 1:
        options["stages"] = rules.stages
        why = "as the rules say" if rules.stages is not None else "equal numbers of parameters"
        stages = {f"stage {n}": names for n, names in enumerate(plan.stages)}
        reasons.append(f"{head} {why}: {_sizes(stages, sizes)}")
    if mesh.tp > 1:
        options["tensor_plan"] = rules.tensor
        why = "as the rules say" if rules.tensor is not None else "the model's own tensor_plan()"
        reasons.append(f"{head} layers are cut by {why}")
    used = {"units": "units" in options, "stages": mesh.pp > 1, "tensor": mesh.tp > 1}
    idle = [name for name, is_used in used.items() if getattr(rules, name) and not is_used]
    if idle:
        reasons.append(f"{head} {' and '.join(idle)} of the rules are not used by this strategy")
    return replace(
        choice,
        options={**choice.options, **options},
        reasons=(*choice.reasons, *(reasons or [f"{head} nothing of the model is cut"])),
    )


def _sizes(groups: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> str:
    """Parameters of each group; equal neighbours in one go."""
    counts = [(name or "the rest", sum(sizes[n] for n in held)) for name, held in groups.items()]
    words = []
    for count, group in itertools.groupby(counts, key=lambda pair: pair[1]):
        names = [name for name, _ in group]
        shown = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        words.append(f"{shown} {count:,}{' each' if len(names) > 1 else ''}")
    return ", ".join(words)
