"""`cost` and `drift`: what is read of a cluster from its folder, its head and its cloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dto.cluster.cloud import cost, drift
from dto.cluster.cloud.estimate import estimate
from dto.cluster.cloud.estimate import told as told_estimate
from dto.cluster.cloud.planned import Planned, read_plan, read_state
from dto.cluster.cloud.preflight import may_ask
from dto.cluster.cloud.terraform import Terraform
from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.session import Reach, Terminal, opened
from dto.cluster.state import known_clusters
from dto.errors import ConfigError


@dataclass(frozen=True)
class Answer:
    """For people the lines, for programs the JSON."""

    lines: list[str]
    json: Mapping[str, Any]
    is_fine: bool = True


def costs(
    terraform: Terraform | None,
    name: str | None,
    reach: Reach,
    terminal: Terminal,
    env: Mapping[str, str],
) -> Answer:
    """Return what was spent, or the estimate where nothing counts yet."""
    applied = _applied(terraform) if terraform is not None and name is None else None
    name = name or (str(applied["name"]) if applied and applied.get("name") else None)
    if terraform is not None and (name is None or name not in known_clusters(env)):
        return _estimated(terraform, terminal, is_applied=applied is not None)
    with opened(name, terminal, env, reach) as session:
        raw, spent = cost.ask(session)
    return Answer(cost.told(spent), {"spent": raw})


def _applied(terraform: Terraform) -> dict[str, Any] | None:
    terraform.check()
    terraform.ready(quiet=True)
    resources, output = read_state(terraform.show())
    return output if resources else None


def _estimated(terraform: Terraform, terminal: Terminal, is_applied: bool) -> Answer:
    may_ask(terraform, terminal)
    planned = read_plan(terraform.plan(quiet=True))
    found = estimate(planned)
    note = "it was not set up from here: this is an estimate, nothing is counted"
    lines = told_estimate(found) + ([note] if is_applied else [])
    return Answer(lines, {"estimate": found.to_json()})


def drifted(
    terraform: Terraform, reach: Reach, terminal: Terminal, env: Mapping[str, str]
) -> Answer:
    """Compare what is written, what runs, and what SLURM knows."""
    may_ask(terraform, terminal)
    planned = read_plan(terraform.plan("-refresh=true", quiet=True))
    found, notes = drift.of_plan(planned), []
    record = _record(planned)
    if record is not None:
        cloud = drift.seen_in_cloud(record)
        if cloud is None and record.nodes:
            cloud = drift.seen_in_record(record)  # Nebius: the plan has refreshed them one by one
        if record.name in known_clusters(env):
            with opened(record.name, terminal, env, reach) as session:
                known, slurm = drift.seen_by_head(session)
            found += drift.compare(known, slurm, cloud)
        else:
            notes.append(f"cluster {record.name} was not set up from here: SLURM was not asked")
    else:
        notes.append("nothing is applied yet")
    lines = [one.text for one in found] or ["no drift: everything is as it is written"]
    return Answer([*lines, *notes], drift.to_json(found, notes), is_fine=not found)


def _record(planned: Planned) -> DtoCluster | None:
    """Return the record as an apply would leave it, if that is known by now."""
    try:
        return parse_record(dict(planned.cluster), "the plan") if planned.cluster else None
    except ConfigError:  # its addresses are not known before the first apply
        return None
