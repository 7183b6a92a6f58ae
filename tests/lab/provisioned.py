"""The cluster that most lab tests share, and what was seen while it was made."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab import layers
from tests.lab.cluster import Cluster
from tests.lab.lab import Lab, Labs

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Provisioned:
    """A head and two workers: looked at dry, set up, and set up once more."""

    lab: Lab
    cluster: Cluster
    dry_run: Done
    changed_by_dry_run: dict[str, set[str]]
    setup: Done
    summary: str
    nodes: dict[str, str]
    again: Done

    @property
    def hosts(self) -> list[str]:
        return ["head", "n1", "n2"]


@dataclass(frozen=True)
class Joined:
    """What was seen while n3 joined a cluster with a running job."""

    lab: Lab
    cluster: Cluster
    done: Done
    slurmctld_before: str
    slurmctld_after: str
    during: dict[str, Any]
    step_before: int
    step_after: int


@pytest.fixture(scope="session")
def provisioned(labs: Labs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provisioned]:
    hosts = ["head", "n1", "n2"]
    with labs("main", hosts, wheels=True) as lab:
        home = tmp_path_factory.mktemp("operator")
        cluster = Cluster(lab, home, name="lab", head="head", workers=("n1", "n2"))
        before = {name: lab.files(name) for name in hosts}
        dry_run = cluster.setup("--check")
        after = {name: lab.files(name) for name in hosts}
        changed = {name: _differing(before[name], after[name]) for name in hosts}
        setup = cluster.setup()
        assert setup.returncode == 0, setup.stdout[-3000:] + setup.stderr[-3000:]
        layers.keep(lab)
        summary, nodes = cluster.summary(), cluster.nodes()
        again = cluster.setup()
        yield Provisioned(lab, cluster, dry_run, changed, setup, summary, nodes, again)


def _differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path in {*before, *after} if before.get(path) != after.get(path)}


@pytest.fixture(scope="session")
def joined(provisioned: Provisioned) -> Joined:
    lab, cluster = provisioned.lab, provisioned.cluster
    cluster.wait_idle("n1", "n2")
    lab.add(["n3"])
    run = cluster.steady("-N", "2", "--sbatch", "nodelist=n1,n2", name="beside", epochs=40)
    step_before = cluster.at_step(run, 5)
    pid = cluster.on_head("pidof slurmctld").stdout
    done = cluster.setup("--join", f"n3={lab.address('n3')}")
    seen = Joined(
        lab, cluster, done, pid, cluster.on_head("pidof slurmctld").stdout,
        cluster.status(run), step_before, int(cluster.status(run)["step"]),
    )  # fmt: skip
    cluster.on_head(f"dto cancel {run}")
    cluster.wait_idle("n1", "n2", "n3")
    return seen


@pytest.fixture(scope="session")
def unbroken(provisioned: Provisioned) -> str:
    """The weights of the steady program after a run on two nodes that nobody touched."""
    cluster = provisioned.cluster
    run = cluster.steady("-N", "2", "--sbatch", "nodelist=n1,n2", name="unbroken")
    assert cluster.ended(run)["state"] == "COMPLETED", cluster.logs(run)
    assert set(cluster.times_read("unbroken")) == {cluster.EPOCHS}
    return cluster.weights("unbroken")


def takes_a_job(cluster: Cluster, node: str) -> str:
    """Run a job on one node to its end; return what it wrote."""
    place = ("-N", "1", "--time", "5", "--sbatch", f"nodelist={node}")
    run = cluster.submit(*place, "examples/test_environment.py")
    assert cluster.ended(run)["state"] == "COMPLETED", cluster.logs(run)
    return cluster.logs(run)
