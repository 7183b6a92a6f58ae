"""What was typed to make a cluster: checked on its own, turned into settings of the record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dto.cluster import sources
from dto.cluster.preflight import Probe
from dto.cluster.provision import Options
from dto.cluster.session import Reach
from dto.errors import UsageError


@dataclass(frozen=True)
class Asked:
    """What was typed: where the hosts are named, how they are reached, what they become."""

    cluster_name: str | None = None
    master_ip: str | None = None
    worker_ips: str | None = None
    total_gpus: int | None = None
    inventory: str | None = None
    from_terraform: str | None = None
    local: bool = False
    region: str | None = None
    shared: str | None = None
    shared_path: str | None = None
    wheels: str | None = None
    torch: str | None = None
    no_horovod: bool = False
    reach: Reach = field(default_factory=Reach)
    options: Options = field(default_factory=Options)
    wait_seconds: float = 900.0
    """How long a cloud may take until its machines are in service and their host keys known."""


def check(asked: Asked) -> None:
    """Refuse what cannot be meant before any host is asked."""
    asked.reach.check()
    given = {
        "--master-ip": asked.master_ip,
        "--inventory": asked.inventory,
        "--from-terraform": asked.from_terraform,
        "--local": asked.local,
    }
    sources_given = [flag for flag, value in given.items() if value]
    if len(sources_given) > 1:
        raise UsageError(f"{' and '.join(sources_given)} name the hosts twice: leave one out")
    of_flags = {
        "--shared": asked.shared,
        "--shared-path": asked.shared_path,
        "--wheels": asked.wheels,
        "--torch": asked.torch,
        "--no-horovod": asked.no_horovod,
        "--total-gpus": asked.total_gpus,
        "--region": asked.region,
    }
    if asked.inventory or asked.from_terraform:
        for flag, value in of_flags.items():
            if value not in (None, False):
                raise UsageError(f"{flag} and {sources_given[0]}: write it into the record instead")
    if asked.worker_ips and not asked.master_ip:
        raise UsageError("--worker-ips needs --master-ip: the nodes need a head")
    if asked.wheels is not None and not Path(asked.wheels).expanduser().is_dir():
        raise UsageError(f"--wheels {asked.wheels}: there is no such folder")
    if asked.inventory is not None and not Path(asked.inventory).expanduser().is_file():
        raise UsageError(f"--inventory {asked.inventory}: there is no such file")
    even_gpus(asked)


def even_gpus(asked: Asked) -> int | None:
    """Return each node's part of --total-gpus."""
    if asked.total_gpus is None:
        return None
    nodes = 1 if asked.local else len(sources.split_addresses(asked.worker_ips or ""))
    if nodes == 0:
        raise UsageError("--total-gpus needs --worker-ips: the GPUs are theirs")
    if asked.total_gpus % nodes:
        raise UsageError(
            f"--total-gpus {asked.total_gpus} over {nodes} workers does not come out even: write"
            " each node's gpus into a record and give that with --inventory"
        )
    return asked.total_gpus // nodes


def settings(asked: Asked) -> dict[str, Any]:
    """Return the parts of the record that flags spell out."""
    more: dict[str, Any] = {}
    if asked.region:
        more["region"] = asked.region
    shared: dict[str, Any] = {}
    if asked.shared:
        kind, _, where = asked.shared.partition(":")
        shared = {"kind": kind, **({"source": where} if where else {})}
    if asked.shared_path:
        shared["path"] = asked.shared_path
        if asked.local:
            shared.setdefault("kind", "existing")
    if shared:
        more["shared"] = shared
    software: dict[str, Any] = {}
    if asked.wheels:
        software["wheels"] = str(Path(asked.wheels).expanduser().absolute())
    if asked.torch:
        software["torch"] = asked.torch
    if asked.no_horovod:
        software["horovod"] = False
    if software:
        more["software"] = software
    return more


def slurm_for(probes: Iterable[Probe]) -> dict[str, Any]:
    """Where a host has no cgroup v2, SLURM follows processes as it did before there was one."""
    if all(probe.has_cgroup_v2 for probe in probes):
        return {}
    return {"slurm": {"proctrack": "linuxproc", "task_plugin": "none"}}
