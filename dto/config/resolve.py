"""Lays the layers over each other, fills in what follows from the rest, and checks the whole."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dto.config.layers import Layer, first_problem
from dto.config.machine import Machine
from dto.config.spec import JobSpec, field_of, setting_of
from dto.errors import ConfigError

DAY_SECONDS = 86400
RANKS_PER_CPU = 16
_PER_KEY = {"sbatch", "env"}
_FOR_CLUSTERS = ("nodes", "time_seconds", "gpus_per_node")


@dataclass(frozen=True)
class Target:
    """Where the job will run, as far as defaults depend on it."""

    scheduler: Literal["local", "slurm"]
    machine: Machine
    allocation_nodes: int | None = None
    """The nodes of the SLURM allocation that `dto run` was typed in, if any."""

    @property
    def is_this_machine(self) -> bool:
        return self.scheduler == "local" and self.allocation_nodes is None


@dataclass(frozen=True)
class Resolved:
    """A checked job, and where each of its values was written."""

    spec: JobSpec
    origins: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "values": self.spec.to_values(), "origins": self.origins}


def resolve(
    command: Mapping[str, Any], layers: Sequence[Layer], target: Target, strong: Sequence[Layer]
) -> Resolved:
    """Return the job that `command` (script, args, cwd ...) and the layers describe.

    `layers` go from the weakest to `strong`, the ones typed for this very run (DTO_*, flags).
    What a file says about a cluster's size or time limit does not bind a run on this machine.

    Raises:
        ConfigError: a value is out of range; the message names it and its origin.
    """
    values: dict[str, Any] = dict(command)
    origins: dict[str, str] = {name: "command line" for name in command}
    for layer in (*layers, *strong):
        local = target.is_this_machine and not any(layer is one for one in strong)
        _lay(values, origins, layer, skip=_FOR_CLUSTERS if local else ())
    cpus_per_gpu = next((layer.cpus_per_gpu for layer in layers if layer.cpus_per_gpu), None)
    for name, value, why in _defaults(values, target, cpus_per_gpu):
        if values.get(name) is None and value is not None:
            values[name] = value
            origins[name] = why
    resolved = Resolved(_check(values, origins), _complete(origins))
    _check_fit(resolved, target)
    return resolved


def override(values: Mapping[str, Any], origins: Mapping[str, str], flags: Layer) -> Resolved:
    """Return an earlier submission's job with some values replaced (`dto resume`)."""
    merged, places = dict(values), dict(origins)
    _lay(merged, places, flags, skip=())
    return Resolved(_check(merged, places), places)


def _lay(
    values: dict[str, Any], origins: dict[str, str], layer: Layer, skip: Sequence[str]
) -> None:
    for name, value in layer.values.items():
        if name in skip:
            continue
        if name in _PER_KEY and isinstance(value, dict):
            values[name] = {**values.get(name, {}), **value}
            origins |= {f"{name}.{key}": layer.origins[name] for key in value}
        elif name == "setup" and isinstance(value, list | tuple):
            values[name] = [*values.get(name, ()), *value]  # the site's lines first, then ours
        else:
            values[name] = value
        origins[name] = layer.origins[name]


def _defaults(
    values: Mapping[str, Any], target: Target, cpus_per_gpu: int | None
) -> list[tuple[str, Any, str]]:
    """Return (field, value, why) of everything that follows from the rest or from the place."""
    on_cluster = target.scheduler == "slurm"
    gpus = _whole(values.get("gpus_per_node"), 0 if on_cluster else target.machine.gpus)
    ranks = _whole(values.get("ranks_per_node"), max(gpus, 1))
    share = max(1, cpus_per_gpu * gpus // max(ranks, 1)) if cpus_per_gpu and gpus else 1
    shared = "default: cpus_per_gpu of the cluster profile" if cpus_per_gpu and gpus else "default"
    crowded = "gloo" if ranks > gpus > 0 else None
    return [
        ("name", default_name(values), "default: from what is run"),
        ("nodes", target.allocation_nodes or 1, "default"),
        ("gpus_per_node", gpus, "default" if on_cluster else "default: seen on this machine"),
        ("ranks_per_node", ranks, "default: one a GPU, at least one"),
        ("cpus_per_rank", share if on_cluster else None, shared),
        ("backend", crowded, "default: NCCL needs a GPU for each rank"),
        ("time_seconds", DAY_SECONDS if on_cluster else None, "default"),
        ("requeue", on_cluster, "default"),
        ("run_root", os.path.join(str(values["cwd"]), "runs"), "default"),
        ("python", sys.executable, "default: dto's own"),
        ("scheduler", target.scheduler, "command line"),
    ]


def _whole(value: Any, default: int) -> int:
    """Read a count that has not been checked yet; nonsense is named later, by the check."""
    text = str(value)
    return int(text) if text.isdigit() else default


def default_name(values: Mapping[str, Any]) -> str:
    """Make a job name of the script's or the module's name."""
    text = values.get("module") or Path(str(values.get("script") or "job")).stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(text)).strip("-.")[:64]
    return name or "job"


def _check(values: dict[str, Any], origins: Mapping[str, str]) -> JobSpec:
    known = {name: value for name, value in values.items() if value is not None}
    try:
        return JobSpec.model_validate(known)
    except ValidationError as error:
        place = error.errors(include_url=False)[0]["loc"]
        name = str(place[0]) if place else ""
        text = first_problem(error)
        if name:
            text = setting_of(name) + text.removeprefix(name)
        origin = origins.get(".".join(map(str, place[:2])), origins.get(name))
        raise ConfigError(f"{text} ({origin})" if origin else text) from None


def _complete(origins: dict[str, str]) -> dict[str, str]:
    return {name: origins.get(name, "default") for name in (*JobSpec.model_fields, *origins)}


def _check_fit(resolved: Resolved, target: Target) -> None:
    """Refuse a shape that cannot work, before anything is written."""
    spec = resolved.spec
    where = resolved.origins[field_of("ranks_per_node")]
    if target.is_this_machine:
        most = RANKS_PER_CPU * target.machine.cpus
        if spec.nodes * spec.ranks_per_node > most:
            raise ConfigError(
                f"{spec.nodes * spec.ranks_per_node} ranks are too many for this machine of "
                f"{target.machine.cpus} CPUs (at most {most}): lower -n ({where})"
            )
    if spec.backend == "nccl" and 0 < spec.gpus_per_node < spec.ranks_per_node:
        raise ConfigError(
            f"{spec.ranks_per_node} ranks on {spec.gpus_per_node} GPUs: NCCL needs a GPU for each "
            f"rank; lower -n ({where}), or say --backend gloo"
        )
    if spec.backend == "nccl" and spec.gpus_per_node == 0:
        raise ConfigError("backend nccl needs GPUs, and none were asked for or seen: say -g GPUS")
