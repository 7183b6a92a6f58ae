"""From an empty account to a cluster and back: Terraform, Ansible, the hosts and AWS's API.

AWS is moto's; what stands behind its instances are real hosts, each booted with the user data that
Terraform gave it. They tell their host keys and learn the head's by AWS, as on a real one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cloud import moto, terraform
from tests.lab import layers
from tests.lab.cloud import Cloud
from tests.lab.cluster import Cluster
from tests.lab.commands import wait_until
from tests.lab.image import LOGIN
from tests.lab.lab import Lab, Labs
from tests.lab.operator import Operator

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]
NAME = "chain"
Done = subprocess.CompletedProcess[str]


class CloudOperator(Operator):
    """An operator with the real Terraform and the credentials of the make-believe AWS."""

    def __init__(self, home: Path, cloud: Cloud) -> None:
        super().__init__(home)
        self._cloud = cloud

    def env(self) -> dict[str, str]:
        steered = terraform.environment()
        kept = {name: steered[name] for name in steered if name.startswith(("TF_", "CHECKPOINT"))}
        return {**super().env(), **kept, **self._cloud.environment()}


@dataclass(frozen=True)
class Chain:
    """A cluster that `dto cluster up` made of one folder, and what it printed."""

    lab: Lab
    cloud: Cloud
    cluster: Cluster
    folder: Path
    made: Done

    def type(self, command: str, *words: str, timeout: float = 300) -> Done:
        """dto cluster COMMAND FOLDER WORDS"""
        return self.cluster.dto("cluster", command, str(self.folder), *words, timeout=timeout)

    def wait_without_drift(self) -> None:
        """Wait until the cloud, the head's record and SLURM agree."""
        until = time.monotonic() + 150
        while (seen := self.type("drift")).returncode:
            assert time.monotonic() < until, seen.stdout + seen.stderr
            time.sleep(3)

    def node_name(self, identity: str) -> str:
        """The name that an instance has in SLURM."""
        return f"{NAME}-cpu-{identity[-8:]}"


@pytest.fixture(scope="module")
def chain(labs: Labs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("operator")
    with labs("chain", [], wheels=True) as lab, Cloud.up(lab) as cloud:
        layers.lend(lab)
        cluster = Cluster(lab, home, name=NAME, head="head", workers=())
        cluster.operator = CloudOperator(home, cloud)
        folder = root_of(lab, tmp_path_factory.mktemp("folder"))
        made = cluster.dto("cluster", "up", str(folder), "--yes", "--wait", "120", timeout=700)
        cloud.check()
        assert made.returncode == 0, made.stdout[-5000:] + made.stderr[-3000:]
        yield Chain(lab, cloud, cluster, folder, made)


def root_of(lab: Lab, to: Path) -> Path:
    """The folder of Terraform's that somebody works in, with the modules beside it."""
    folder = terraform.copy_root("chain", to)
    shutil.copytree(Path(__file__).with_name("chain"), folder)
    values = {
        "region": moto.REGION, "ssh_user": LOGIN, "wheels": str(lab.wheels),
        "ssh_public_key_path": f"{lab.key}.pub",
    }  # fmt: skip
    (folder / "terraform.tfvars.json").write_text(json.dumps(values))
    return folder


def test_up_makes_a_cluster_whose_host_keys_came_by_aws(chain: Chain) -> None:
    [node] = chain.cloud.nodes()
    name = chain.node_name(node)
    chain.cluster.wait_idle(name)
    state = chain.cluster.home / ".local/state/dto/clusters" / NAME
    trusted = yaml.safe_load((state / "record.yaml").read_text())["host_keys"]
    for host in ("head", chain.cloud.host_of(node)):
        assert chain.lab.host(host).host_key in trusted[chain.lab.address(host)]
    assert "left out" not in chain.made.stdout + chain.made.stderr


def test_cost_is_what_the_head_has_counted(chain: Chain) -> None:
    done = chain.type("cost", "--json")
    assert done.returncode == 0, done.stderr
    spent = json.loads(done.stdout)["spent"]
    [node] = chain.cloud.nodes()
    prices = {f"{NAME}-head": 0.25, chain.node_name(node): 0.5}
    assert (spent["hourly"], spent["unknown"]) == (prices, [])
    assert 0 < spent["amount"] < 1 and spent["budget"]["amount"] == 650


def test_nothing_has_drifted(chain: Chain) -> None:
    done = chain.type("drift")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no drift" in done.stdout


def test_the_head_brings_in_what_the_scaling_group_starts(chain: Chain) -> None:
    cluster, cloud = chain.cluster, chain.cloud
    [first] = cloud.nodes()
    run = cluster.steady("-N", "1", name="calm")
    cloud.scale(2)
    wait_until(lambda: len(cloud.nodes()) == 2, "a second machine", timeout=60)
    second = next(chain.node_name(one) for one in cloud.nodes() if one != first)
    cluster.wait_idle_or_busy(second, timeout=300)
    ended = cluster.ended(run)
    assert (ended["state"], ended["attempt"]) == ("COMPLETED", 1), "the job was disturbed"
    chain.wait_without_drift()


def test_a_machine_that_the_cloud_takes_is_replaced_and_its_job_goes_on(chain: Chain) -> None:
    cluster, cloud = chain.cluster, chain.cloud
    names = {chain.node_name(one): one for one in cloud.nodes()}
    cluster.wait_idle(*names)
    run = cluster.steady("-N", "1", name="taken")
    cluster.at_step(run, 10)
    lost = cluster.on_head("squeue --noheader --format=%N").stdout.strip()
    cloud.terminate(names[lost])
    ended = cluster.ended(run)
    assert ended["state"] == "COMPLETED" and ended["attempt"] > 1, cluster.logs(run)
    assert cluster.weights("taken") == cluster.weights("calm")
    wait_until(lambda: lost not in cluster.nodes(), f"SLURM to forget {lost}", timeout=120)
    wait_until(lambda: len(cluster.nodes()) == 2, "a node in its place", timeout=300)
    chain.wait_without_drift()


def test_down_lets_a_job_save_and_leaves_nothing(chain: Chain) -> None:
    run = chain.cluster.steady("-N", "1", name="late", epochs=40)
    chain.cluster.at_step(run, 5)
    gone = chain.type("down", "--yes", timeout=400)
    assert gone.returncode == 0, gone.stdout[-3000:] + gone.stderr[-3000:]
    assert gone.stdout.splitlines()[-1] == f"nothing is left of cluster {NAME} in {moto.REGION}"
    [verdict] = chain.lab.shared.glob(f"runs/*/{run}/attempt-*/result.json")
    assert json.loads(verdict.read_text())["state"] == "PREEMPTED"
    read = Counter(samples_of(chain.lab, "late"))
    assert read and set(read.values()) <= {max(read.values()), max(read.values()) - 1}
    assert chain.cloud.nodes() == []


def samples_of(lab: Lab, name: str) -> list[str]:
    """The samples that a steady job has read, in the folder that outlives its cluster."""
    files = lab.shared.glob(f"work/{LOGIN}/out-{name}/seen-*.txt")
    return [word for file in files for word in file.read_text().split()]
