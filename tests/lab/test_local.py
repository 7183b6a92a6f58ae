"""One fresh host becomes a cluster by itself; a second one joins it from its own keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import layers
from tests.lab.cluster import Cluster
from tests.lab.lab import Labs
from tests.lab.provisioned import takes_a_job

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def alone(
    labs: Labs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with labs("local", ["solo", "second"], wheels=True) as lab:
        layers.lend(lab)
        home = tmp_path_factory.mktemp("local")
        cluster = Cluster(lab, home, name="solo", head="solo", workers=())
        done = cluster.setup_on("solo", "--local", "--cluster-name", "solo", *cluster.lab_flags)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield cluster


@pytest.mark.parametrize(
    "line",
    [
        "scripts/submit_job.sh examples/simple_net.py --epochs 3",
        "dto ls",
        "dto status latest",
        "slurm_status.sh",
        "dto cluster status",
    ],
)
def test_the_readmes_slurm_commands_work_on_one_host(alone: Cluster, line: str) -> None:
    done = alone.on_head(f"cd ~/dto && {line}", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    if "submit" in line:
        run = done.stdout.split("run ", 1)[1].split()[0]
        assert alone.ended(run)["state"] == "COMPLETED", alone.logs(run)


def test_a_second_host_joins_from_its_own_keyboard(alone: Cluster) -> None:
    done = alone.setup_on("second", "--role", "worker", "--head", alone.lab.address("solo"),
                          *alone.operator_flags_on("second"))  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    alone.wait_idle("second")
    takes_a_job(alone, "second")


def test_setup_left_no_key_behind(alone: Cluster) -> None:
    places = ("/etc/dto", "/var/log", "/shared/dto/tree")
    assert alone.lab.inside("second", "grep", "-rl", "PRIVATE KEY", *places).stdout == ""
