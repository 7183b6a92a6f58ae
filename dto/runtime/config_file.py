"""The configuration file of a training: seven settings that say how, and a few that may be added.

model: transformer
batch_size: 32
num_gpus: 4
pipeline_parallelism: true
zero_redundancy: true
sharding_strategy: auto
communication_pattern: ring
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dto.config.yaml_text import read_yaml
from dto.errors import ConfigError

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class ConfigFile:
    """What a configuration file says; a setting that is left out has the value here."""

    model: str = "transformer"
    """The name of a model that the script knows."""
    batch_size: int = 32
    """Samples per step of each GPU; ranks that share one copy of the model share them."""
    num_gpus: int = 1
    """Ranks in all; processes on the CPU where there are no GPUs for them."""
    pipeline_parallelism: bool | int = False
    """Cut the model into stages of layers: true, false, or how many stages."""
    zero_redundancy: bool | int = False
    """Cut optimizer state and more over the ranks: true, false, or the stage of ZeRO."""
    sharding_strategy: str = "auto"
    """auto, or manual: as the file `sharding_rules` says."""
    communication_pattern: str = "ring"
    """ring or tree: the all-reduce of gradients."""
    sharding_rules: Path | None = None
    """See `dto.runtime.sharding`; relative to the configuration file."""
    tensor_parallelism: int = 1
    """Cut single layers over so many ranks."""
    epochs: int = 2
    lr: float | None = None
    """None: the model's own."""
    seed: int = 0
    precision: str = "fp32"
    accumulation_steps: int = 1
    micro_batches: int | None = None
    """Of a pipeline; twice the stages if not given."""
    checkpoint_every: str | None = None
    """Such as 200steps or 15m."""
    data: Path | None = None
    """A folder with data for the model; relative to the configuration file."""
    samples: int | None = None
    """Train and evaluate on so many samples only, the first."""
    model_options: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the model, by the names of its own arguments."""


KEYS = tuple(one.name for one in fields(ConfigFile))


def read_config(path: Path, flags: Mapping[str, str] | None = None) -> ConfigFile:
    """Read a YAML file; `flags` are settings from the command line, which come before it.

    Raises:
        ConfigError: it cannot be read, or a setting is unknown or has a value that cannot be.
    """
    written = read_yaml(path)
    for key in written:
        if key not in KEYS:
            raise ConfigError(f"{path} has an unknown setting {key!r}: {meant(key)}")
    values = {}
    for key, text in {**written, **(flags or {})}.items():
        where = f"--{key}" if key in (flags or {}) else f"{path}: {key}"
        if text is None:
            raise ConfigError(f"{where} has no value: give one, or leave the setting out")
        values[key] = _READERS[key](where, text)
        if isinstance(values[key], Path):
            folder = Path() if key in (flags or {}) else path.parent
            values[key] = (folder / values[key]).absolute()
    found = ConfigFile(**values)
    if found.sharding_strategy == "manual" and found.sharding_rules is None:
        raise ConfigError(
            f"{path}: sharding_strategy is manual, so sharding_rules must name a file of rules"
        )
    return found


def meant(key: str) -> str:
    """What somebody may have meant who wrote an unknown setting."""
    near = difflib.get_close_matches(key.lower(), KEYS, n=1)
    return f"did you mean {near[0]}?" if near else f"use one of {', '.join(KEYS)}"


# One reader per kind of value: (where it stands, what is written there) -> the value


def _whole(where: str, text: Any) -> int:
    if isinstance(text, str) and text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise ConfigError(f"{where} is {text!r}: give a whole number from 1 on")


def _seed(where: str, text: Any) -> int:
    if isinstance(text, str) and text.isascii() and text.isdigit() and int(text) < 2**63:
        return int(text)
    raise ConfigError(f"{where} is {text!r}: give a whole number from 0 on")


def _rate(where: str, text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{where} is {text!r}: give a number above 0")
    return value


def _word(where: str, text: Any) -> str:
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{where} is {text!r}: give a word")
    return text


def _path(where: str, text: Any) -> Path:
    return Path(_word(where, text)).expanduser()


def _one_of(*legal: str) -> Callable[[str, Any], str]:
    def read(where: str, text: Any) -> str:
        if text not in legal:
            raise ConfigError(f"{where} is {text!r}: use {' or '.join(legal)}")
        return str(text)

    return read


def _switch(lowest: int, highest: int | None, meaning: str) -> Callable[[str, Any], bool | int]:
    """true, false, or a number in these bounds."""

    def read(where: str, text: Any) -> bool | int:
        if isinstance(text, str) and text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if isinstance(text, str) and text.isascii() and text.isdigit():
            if lowest <= int(text) <= (highest or int(text)):
                return int(text)
        raise ConfigError(f"{where} is {text!r}: use true, false or {meaning}")

    return read


def _sizes(where: str, text: Any) -> dict[str, int]:
    if not isinstance(text, dict):
        raise ConfigError(f"{where} is {text!r}: give lines of `name: number` below it")
    return {str(name): _whole(f"{where}.{name}", value) for name, value in text.items()}


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "model": _word,
    "batch_size": _whole,
    "num_gpus": _whole,
    "pipeline_parallelism": _switch(2, None, "the number of stages, from 2 on"),
    "zero_redundancy": _switch(1, 3, "a stage: 1, 2 or 3"),
    "sharding_strategy": _one_of("auto", "manual"),
    "communication_pattern": _one_of("ring", "tree"),
    "sharding_rules": _path,
    "tensor_parallelism": _whole,
    "epochs": _whole,
    "lr": _rate,
    "seed": _seed,
    "precision": _one_of("fp32", "bf16", "fp16"),
    "accumulation_steps": _whole,
    "micro_batches": _whole,
    "checkpoint_every": _word,
    "data": _path,
    "samples": _whole,
    "model_options": _sizes,
}
