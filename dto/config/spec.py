"""Everything one job needs, checked: the record that travels to every node as spec.json."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

JOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MEMORY = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
_SITE_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+@:-]{0,255}")


def _text(value: Any) -> str:
    """Any text, surrogate escapes included: what the kernel takes as an argument or a path."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _line(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must not hold a newline or another control character")
    return value


def _count(value: Any) -> Any:
    """Refuse what int() would bend: True, 2.5, "1e3"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value.strip()):
        return int(value)
    raise ValueError("must be a whole number")


def _job_name(value: str) -> str:
    if not JOB_NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter, a digit or _"
        )
    return value


def _site_word(value: str) -> str:
    if not _SITE_WORD.fullmatch(value):
        raise ValueError("must be a plain word of letters, digits and _ . , + @ : -")
    return value


def _memory(value: str) -> str:
    if not _MEMORY.fullmatch(value):
        raise ValueError("must be a number of MB, or one with K, M, G or T, such as 64G")
    return value


def _variables(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not VARIABLE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
    return value


Text = Annotated[str, PlainValidator(_text)]
Line = Annotated[Text, AfterValidator(_line)]
SiteWord = Annotated[Text, AfterValidator(_site_word)]
Count = Annotated[int, BeforeValidator(_count)]
GpuFlag = Literal["gpus-per-node", "gres", "none"]
Backend = Literal["auto", "nccl", "gloo", "horovod"]


class JobSpec(BaseModel):
    """One job, resolved. The field names are those of spec.json (`time` is `time_seconds`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[Text, AfterValidator(_job_name)]
    script: Text | None = None
    module: Text | None = None
    args: tuple[Text, ...] = ()
    python: Line
    cwd: Text
    code: Text | None = None
    tree: Text | None = None
    nodes: Annotated[Count, Field(ge=1, le=65535)] = 1
    ranks_per_node: Annotated[Count, Field(ge=1, le=1024)] = 1
    gpus_per_node: Annotated[Count, Field(ge=0, le=1024)] = 0
    cpus_per_rank: Annotated[Count, Field(ge=1, le=65535)] | None = None
    time_seconds: Annotated[Count, Field(ge=1, le=366 * 86400)] | None = None
    partition: SiteWord | None = None
    account: SiteWord | None = None
    qos: SiteWord | None = None
    mem: Annotated[Text, AfterValidator(_memory)] | None = None
    backend: Backend = "auto"
    run_root: Line
    sbatch: dict[Line, Line] = Field(default_factory=dict)
    env: Annotated[dict[Text, Text], AfterValidator(_variables)] = Field(default_factory=dict)
    requeue: bool = False
    retries: Annotated[Count, Field(ge=0, le=1000)] = 0
    save_budget: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] | None = None
    scheduler: Literal["local", "slurm"] = "local"
    heartbeat_timeout: Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)] = 30.0
    start_timeout: Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False)] = 300.0
    setup: tuple[Line, ...] = ()
    seed: Annotated[Count, Field(ge=0, lt=2**32)] | None = None
    gpu_flag: GpuFlag = "gpus-per-node"

    @model_validator(mode="after")
    def _one_thing_to_run(self) -> JobSpec:
        if (self.script is None) == (self.module is None):
            raise ValueError("name one thing to run: a SCRIPT, or -m MODULE")
        return self

    def to_values(self) -> dict[str, Any]:
        """Return the `values` of spec.json: every field, as JSON types."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


INTERNAL_FIELDS = frozenset({"script", "module", "args", "cwd", "code", "tree", "scheduler"})
"""What only the command line can say."""

SETTINGS = tuple(
    "time" if name == "time_seconds" else name
    for name in JobSpec.model_fields
    if name not in INTERNAL_FIELDS
)
"""The names that dto.yaml, a script header, DTO_* and --set take."""


def field_of(setting: str) -> str:
    return "time_seconds" if setting == "time" else setting


def setting_of(field: str) -> str:
    return "time" if field == "time_seconds" else field
