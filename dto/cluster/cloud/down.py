"""`down`: jobs save and stop, Terraform destroys, and a search proves that nothing is left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dto.cluster.cloud import (
    preflight,
    sweep_aws,
    sweep_aws_delete,
    sweep_nebius,
    sweep_nebius_delete,
)
from dto.cluster.cloud.data import Store, empty_bucket, holds_anything, staying, stores_in
from dto.cluster.cloud.jobs import STOP_SECONDS, stop_jobs
from dto.cluster.cloud.planned import Resource, provider_of, read_state
from dto.cluster.cloud.sweep import Found, Leftover
from dto.cluster.cloud.terraform import Terraform
from dto.cluster.cloud.text import counted
from dto.cluster.cloud.verdict import judge
from dto.cluster.session import Reach, Terminal, opened
from dto.cluster.state import cluster_state, known_clusters
from dto.errors import ClusterError, DtoError, UsageError


@dataclass(frozen=True)
class Leaving:
    """What was typed with `down`."""

    name: str | None = None
    region: str | None = None
    yes: bool = False
    keep_data: bool = False
    delete_data: bool = False
    sweep: bool = False
    stop_seconds: float = STOP_SECONDS
    reach: Reach = Reach()

    def check(self) -> None:
        if self.keep_data and self.delete_data:
            raise UsageError("--keep-data and --delete-data do not go together")


@dataclass(frozen=True)
class Place:
    """Where a cluster is, or was: all that a search needs. `where` is a region or a project."""

    name: str
    provider: str
    where: str


def down(
    terraform: Terraform | None, leaving: Leaving, terminal: Terminal, env: Mapping[str, str]
) -> bool:
    """Take a cluster away; return whether nothing of it is left."""
    leaving.check()
    kept: list[Store] = []
    place: Place | None = None
    if terraform is not None:
        terraform.check()
        terraform.ready()
        resources, output = read_state(terraform.show())
        place = _place_of(terraform, resources, output, leaving)
        if resources:
            kept = _destroy(terraform, resources, place, leaving, terminal, env)
        elif place is None and leaving.name is None:
            folder = terraform.folder
            raise DtoError(f"nothing is applied in {folder}; to search for what is left: {_SEARCH}")
    place = place or _place_typed(leaving)
    if place is None:
        raise UsageError(f"without a state, say which cluster: {_SEARCH}")
    _forget_cluster(place.name, env)
    return search(place, leaving, terminal, [store.id for store in kept])


_SEARCH = "dto cluster down --cluster-name NAME --region REGION"


def _place_typed(leaving: Leaving) -> Place | None:
    if not leaving.name:
        return None
    region = leaving.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise UsageError(f"--region is missing: {_SEARCH}")
    is_project = region.startswith("project-")
    return Place(leaving.name, "nebius" if is_project else "aws", region)


def _place_of(
    terraform: Terraform, resources: list[Resource], output: Mapping[str, Any], leaving: Leaving
) -> Place | None:
    """Say which cluster a state is of, also where an apply did not get as far as its output."""
    answers = terraform.remembered()
    tags = [one.values.get("tags") or one.values.get("labels") or {} for one in resources]
    tagged = [tag.get("dto:cluster") or tag.get("dto-cluster") for tag in tags]
    name = output.get("name") or next(filter(None, tagged), None) or answers.get("cluster_name")
    if not name:
        return None
    if leaving.name not in (None, name):
        raise UsageError(f"--cluster-name {leaving.name}: {terraform.folder} holds {name}")
    provider = str(output.get("provider") or provider_of(resources) or "aws")
    if provider == "nebius":
        cloud = output.get("cloud") or {}
        where = cloud.get("account") or answers.get("project_id")
    else:
        where = output.get("region") or answers.get("region")
    where = where or leaving.region or os.environ.get("AWS_REGION", "")
    return Place(str(name), provider, str(where))


def _destroy(
    terraform: Terraform,
    resources: list[Resource],
    place: Place | None,
    leaving: Leaving,
    terminal: Terminal,
    env: Mapping[str, str],
) -> list[Store]:
    """Destroy what the state holds; return the stores that stay."""
    provider = provider_of(resources)
    where = place.where if place else ""
    if provider in ("aws", "nebius"):
        judge(preflight.credentials(provider, where), terminal)
    stores = stores_in(resources)
    full = [store for store in stores if not leaving.keep_data and holds_anything(store, where)]
    _agree(resources, stores, full, place, leaving, terminal)
    if place is not None:
        _stop_jobs(place.name, leaving, terminal, env)
    kept = stores if leaving.keep_data else []
    if kept:
        terraform.forget([address for store in kept for address in store.addresses])
    for store in full:
        if store.provider == "aws":
            count = empty_bucket(store.name, where)
            terminal.say(f"{store}: {counted(count, 'object')} deleted")
    terraform.destroy()
    for store in kept:
        terminal.say(staying(store, where))
    return kept


def _agree(
    resources: list[Resource],
    stores: list[Store],
    full: list[Store],
    place: Place | None,
    leaving: Leaving,
    terminal: Terminal,
) -> None:
    """Ask for everything that cannot be undone."""
    stuck = [store for store in stores if leaving.keep_data and not store.can_stay]
    if stuck:
        raise UsageError(
            f"--keep-data cannot keep {stuck[0]}: its servers are in the network that goes;"
            " copy it into a bucket or make a backup of it, then leave --keep-data out"
        )
    name = place.name if place else "this folder"
    if not leaving.yes:
        lost = [str(store) for store in stores if not leaving.keep_data]
        more = f", with all that is in {' and '.join(lost)}" if lost else ""
        question = f"destroy {counted(len(resources), 'resource')} of {name}{more}?"
        _ask(question, "say --yes", terminal)
    if full and not leaving.delete_data:
        told = " and ".join(map(str, full))
        _ask(
            f"{told} is not empty: delete what is in it for good?",
            f"{told} is not empty: say --keep-data or --delete-data",
            terminal,
            is_whole=True,
        )


def _ask(question: str, advice: str, terminal: Terminal, is_whole: bool = False) -> None:
    answer = terminal.confirm(question)
    if answer is None:
        raise UsageError(advice if is_whole else f"nobody is here to agree: {advice}")
    if not answer:
        raise DtoError("nothing was changed")


def _stop_jobs(name: str, leaving: Leaving, terminal: Terminal, env: Mapping[str, str]) -> None:
    """Ask jobs to save; where that cannot be, a person says whether to go on."""
    if name not in known_clusters(env):
        terminal.say(f"cluster {name} was not set up from here: no jobs are asked to save")
        return
    terminal.say("jobs are asked to save and to leave the nodes ...")
    try:
        with opened(name, terminal, env, leaving.reach) as session:
            problems = stop_jobs(session, leaving.stop_seconds)
    except ClusterError as error:
        problems = [f"the head cannot be asked: {error}"]
    for problem in problems:
        terminal.warn(problem)
    if problems and not leaving.yes:
        _ask("what runs there is lost: go on?", "jobs could not be stopped: say --yes", terminal)


def _forget_cluster(name: str, env: Mapping[str, str]) -> None:
    """Drop the record and host keys here: a new cluster of that name has others. Logs stay."""
    state = cluster_state(name, env)
    for path in (state.record_path, state.head_record_path, state.known_hosts,
                 state.inventory_path):  # fmt: skip
        path.unlink(missing_ok=True)


def search(place: Place, leaving: Leaving, terminal: Terminal, kept: list[str]) -> bool:
    """Look for leftovers, delete them if asked to, and say what is there in the end."""
    found = find(place).without(kept)
    found = _without_published_keys(place, found)
    if leaving.sweep and found.left:
        if not leaving.yes:
            names = ", ".join(map(str, found.left))
            _ask(f"delete {names}?", "say --yes", terminal)
        elif not leaving.keep_data and not leaving.delete_data:
            _refuse_data(found)

        def keeps(one: Leftover) -> bool:
            return one.id in kept or (one.is_data and leaving.keep_data)

        sweep = sweep_nebius_delete if place.provider == "nebius" else sweep_aws_delete
        found = sweep.delete(place.name, place.where, keeps, terminal.say).without(kept)
    return tell(place, found, leaving, terminal)


def _refuse_data(found: Found) -> None:
    data = [str(one) for one in found.left if one.is_data]
    if data:
        raise UsageError(f"{' and '.join(data)} may hold data: say --keep-data or --delete-data")


def find(place: Place) -> Found:
    if place.provider == "nebius":
        return sweep_nebius.find(place.name, place.where)
    return sweep_aws.find(place.name, place.where)


def _without_published_keys(place: Place, found: Found) -> Found:
    """Host keys that machines published are of nobody any more, once those are gone."""
    mine = sweep_aws.PARAMETERS.format(place.name) + "/"
    if place.provider != "aws" or any(one.kind == "instance" for one in found.left):
        return found
    stale = [one for one in found.left if one.kind == "SSM parameter" and one.id.startswith(mine)]
    if not stale:
        return found
    sweep_aws_delete.delete_once(stale, place.where, lambda text: None, set())
    return found.without(one.id for one in stale)


def tell(place: Place, found: Found, leaving: Leaving, terminal: Terminal) -> bool:
    for note in found.notes:
        terminal.warn(note)
    for kind in found.unseen:
        terminal.warn(f"could not be looked for: {kind}")
    stays = [one for one in found.left if one.is_data and leaving.keep_data]
    for one in stays:
        terminal.say(f"kept: {one}")
    left = [one for one in found.left if one not in stays]
    if not left and not found.unseen:
        nothing = "nothing else" if stays else "nothing"
        terminal.say(f"{nothing} is left of cluster {place.name} in {place.where}")
        return True
    for one in left:
        terminal.say(f"left: {one}")
    if left and not leaving.sweep:
        terminal.say(
            f"to delete it: dto cluster down --cluster-name {place.name} --region {place.where}"
            " --sweep"
        )
    return False
