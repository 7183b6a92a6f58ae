"""`cluster-setup.sh`: from addresses to a working cluster, or to one line that says why not."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dto.cluster import local, sources
from dto.cluster.asked import Asked, check, even_gpus, settings, slurm_for
from dto.cluster.cloud.aws import with_nodes
from dto.cluster.draft import Draft, draft_from_flags, draft_from_record, known_names
from dto.cluster.inventory import DtoCluster
from dto.cluster.preflight import Look, names_by_address
from dto.cluster.provision import provision, with_joined
from dto.cluster.session import Session, Terminal, with_changes
from dto.cluster.state import ClusterState, cluster_state, known_clusters
from dto.errors import ClusterError, UsageError


def setup(asked: Asked, terminal: Terminal, env: Mapping[str, str]) -> None:
    """Make the cluster what was asked for; raises with the exit code where it is not all there."""
    check(asked)
    source, missing = _read_source(asked, terminal)
    name = _name(asked, source, env)
    kept = cluster_state(name, env)
    saved = kept.load()
    with ExitStack() as stack:
        state, descriptors = kept, []
        if asked.options.check:  # a dry run leaves nothing here, either
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dto-check-"))
            state = ClusterState(name, Path(folder))
            state.create()
            if kept.known_hosts.exists():
                state.known_hosts.write_bytes(kept.known_hosts.read_bytes())
        else:
            descriptors = [stack.enter_context(kept.lock("setup"))]
        drafted, session, found = _look(asked, source, saved, state, terminal)
        for note in drafted.notes:
            terminal.say(note)
        provision(session, found, asked.options, descriptors)
    if missing:
        raise ClusterError(f"left out: {'; '.join(missing)}: run it again when they are there")


def _read_source(asked: Asked, terminal: Terminal) -> tuple[DtoCluster | None, list[str]]:
    """Return the record that was named, and what of it the cloud does not have yet."""
    missing: list[str] = []
    if asked.inventory:
        record = sources.load_record(Path(asked.inventory).expanduser())
    elif asked.from_terraform:
        record = sources.from_terraform(Path(asked.from_terraform).expanduser())
        wait = 0.0 if asked.options.check else asked.wait_seconds
        record, missing = with_nodes(record, wait, terminal.say)
        for text in missing:
            terminal.warn(text)
    else:
        return None, []
    if asked.cluster_name not in (None, record.name):
        raise UsageError(f"--cluster-name {asked.cluster_name}: the record calls it {record.name}")
    return asked.reach.applied(record), missing


def _name(asked: Asked, source: DtoCluster | None, env: Mapping[str, str]) -> str:
    if source is not None:
        return source.name
    if asked.cluster_name:
        name = asked.cluster_name
    elif asked.local:
        name = "local"
    elif asked.master_ip:
        raise UsageError("--cluster-name is missing: call the cluster something")
    else:
        known = known_clusters(env)
        if len(known) != 1:
            raise UsageError(_NO_HOSTS)
        name = known[0]
    if not (asked.master_ip or asked.local) and name not in known_clusters(env):
        raise UsageError(_NO_HOSTS)
    return name


_NO_HOSTS = (
    "say which hosts: --master-ip IP --worker-ips 'IP IP', --inventory FILE, --from-terraform DIR"
    " or --local"
)


def _look(
    asked: Asked,
    source: DtoCluster | None,
    saved: DtoCluster | None,
    state: ClusterState,
    terminal: Terminal,
) -> tuple[Draft, Session, Look]:
    """Draft the record, look at its hosts, and draft it again with what they say of themselves."""
    drafted = _own(_draft(asked, source, saved, Look(), {}))
    session = Session(state, drafted.record, terminal)
    accepts = asked.reach.accept_new_host_keys
    session, found = session.look(accepts=accepts)
    joined = with_joined(session, drops=False)  # what Terraform names may be new to the head
    if len(joined.record.nodes) > len(session.record.nodes):
        session, found = joined.look(accepts=accepts)
    if not asked.master_ip:
        return drafted, session, found
    known = known_names(saved)
    strangers = [m for m in drafted.record.members if m.address not in known]
    own_names = names_by_address(strangers, found)
    final = _own(_draft(asked, source, saved, found, own_names, drafted.record))
    record = final.record.with_host_keys(session.record.host_keys)
    for node in joined.record.nodes[len(drafted.record.nodes) :]:
        record = record.with_node(node)
    final = Draft(record, final.notes, final.gone)
    return final, session.with_record(final.record), _renamed(found, session.record, record)


def _draft(
    asked: Asked,
    source: DtoCluster | None,
    saved: DtoCluster | None,
    found: Look,
    own_names: Mapping[str, str],
    first: DtoCluster | None = None,
) -> Draft:
    if source is not None:
        return draft_from_record(saved, source)
    more = settings(asked)
    if asked.local:
        return _draft_local(asked, saved, more)
    if not asked.master_ip:
        assert saved is not None
        return Draft(asked.reach.applied(with_changes(saved, more) if more else saved))
    workers = sources.split_addresses(asked.worker_ips or "")
    if first is not None:
        workers = [place for place in workers if _is_there(place, first, found, saved)]
    reach = asked.reach
    more |= slurm_for(found.probes.values() if saved is None else ())
    values = sources.flag_values(
        str(asked.cluster_name),
        asked.master_ip,
        workers,
        names={**own_names, **known_names(saved)},
        gpus=_gpus(asked, workers, saved, first, found),
        user=reach.user,
        port=reach.port,
        key=reach.private_key,
        bastion=reach.bastion,
        more=more,
    )
    return draft_from_flags(saved, values)


def _draft_local(asked: Asked, saved: DtoCluster | None, more: dict[str, Any]) -> Draft:
    here = local.probe_here()
    more |= slurm_for([here] if saved is None else [])
    each = even_gpus(asked)
    gpus = each if each is not None else (here.gpus or None) if saved is None else None
    address = saved.head.address if saved else local.address_towards()
    name = asked.cluster_name or "local"
    more["ssh"] = {"user": asked.reach.user or here.user}
    values = sources.local_values(name, here.hostname, address, gpus=gpus, more=more)
    return draft_from_flags(saved, values)


def _is_there(place: str, first: DtoCluster, found: Look, saved: DtoCluster | None) -> bool:
    """A new host that does not answer is left out of the record, too: it has no name yet."""
    return place in known_names(saved) or first.node(place).name in found.probes


def _gpus(
    asked: Asked,
    workers: list[str],
    saved: DtoCluster | None,
    first: DtoCluster | None,
    found: Look,
) -> dict[str, int]:
    each = even_gpus(asked)
    if each is not None:
        return dict.fromkeys(workers, each)
    if first is None:
        return {}
    new = [place for place in workers if place not in known_names(saved)]
    counted = {place: found.probes[first.node(place).name].gpus for place in new}
    return {place: count for place, count in counted.items() if count}


def _renamed(found: Look, first: DtoCluster, final: DtoCluster) -> Look:
    """Return what was found, by the names that the hosts have in the end."""
    names = {member.address: member.name for member in final.members}
    by_old = {m.name: names.get(m.address, m.address) for m in first.members}
    return Look(
        probes={by_old[old]: probe for old, probe in found.probes.items()},
        unreachable={by_old[old]: reason for old, reason in found.unreachable.items()},
    )


def _own(drafted: Draft) -> Draft:
    """Mark the host that is this very machine: it needs no ssh to itself."""
    record = drafted.record
    mine = [
        member
        for member in record.members
        if not record.needs_bastion(member) and local.owns(record.ssh_address(member))
    ]
    if not mine or any(member.local for member in record.members):
        return drafted
    raw = record.to_json()
    for host in (raw["head"], *raw.get("nodes", ())):
        if host["name"] == mine[0].name:
            host["local"] = True
    changed = with_changes(record, {"head": raw["head"], "nodes": raw.get("nodes", [])})
    return Draft(changed, drafted.notes, drafted.gone)
