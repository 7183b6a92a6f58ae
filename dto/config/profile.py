"""What dto knows of a cluster before it asks: written once by whoever set the cluster up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dto.config.spec import Count, GpuFlag, Line, SiteWord, Text

SYSTEM_PROFILE = Path("/etc/dto/cluster.yaml")
PROFILE_VARIABLE = "DTO_CLUSTER_PROFILE"


class ClusterProfile(BaseModel):
    """The lowest layer of settings, and two facts that defaults are computed from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Line = "cluster"
    partition: SiteWord | None = None
    account: SiteWord | None = None
    qos: SiteWord | None = None
    mem: Text | None = None
    time: Text | None = None
    gpus_per_node: Annotated[Count, Field(ge=0, le=1024)] | None = None
    cpus_per_gpu: Annotated[Count, Field(ge=1, le=4096)] | None = None
    gpu_flag: GpuFlag | None = None
    run_root: Line | None = None
    """`$USER` in it is whoever submits."""
    python: Line | None = None
    setup: tuple[Line, ...] = ()
    sbatch: dict[Line, Line] = Field(default_factory=dict)
    env: dict[Text, Text] = Field(default_factory=dict)
    requeue_ok: bool = True

    def settings(self) -> dict[str, Any]:
        """Return what a job on this cluster starts from."""
        facts = {"name", "cpus_per_gpu", "requeue_ok"}
        values = {n: getattr(self, n) for n in type(self).model_fields if n not in facts}
        given = {name: value for name, value in values.items() if value not in (None, (), {})}
        return given if self.requeue_ok else {**given, "requeue": False}


def profile_path(env: Mapping[str, str]) -> Path:
    return Path(env.get(PROFILE_VARIABLE) or SYSTEM_PROFILE)
