"""Whole clusters of other releases than Debian 12: other SLURMs, other Pythons, no PyTorch.

CI makes one of Debian 13. DTO_LAB_RELEASES="trixie noble jammy" asks for Ubuntu's, too; for them
this machine needs the package ubuntu-keyring.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.helpers import cannot
from tests.lab import image
from tests.lab.cluster import Cluster
from tests.lab.commands import LabError
from tests.lab.lab import Labs

pytestmark = pytest.mark.timeout(900)
HOSTS = ["head", "n1"]
RELEASES = os.environ.get("DTO_LAB_RELEASES", "trixie").split()
# release -> its SLURM, its Python
VERSIONS = {"trixie": ("24.11", "3.13"), "noble": ("23.11", "3.12"), "jammy": ("21.08", "3.10")}
SCRIPT = """
import os, platform, socket
import numpy
print(f"rank {os.environ['RANK']}/{os.environ['WORLD_SIZE']} on {socket.gethostname()}:",
      f"Python {platform.python_version()}, numpy {numpy.__version__}")
"""
_REFUSED = re.compile(
    r"fatal:|defunct|obsolete|deprecated|unrecognized|unknown|pars(e|ing) error|cannot find", re.I
)
Done = subprocess.CompletedProcess[str]


class WithoutTorch(Cluster):
    """Its Python packages come from the index."""

    def record(self) -> dict[str, Any]:
        return {**super().record(), "software": {"torch": "none"}}


@dataclass(frozen=True)
class Made:
    """A cluster that was set up, and once more. Its head takes jobs, too: two hosts, two nodes."""

    cluster: WithoutTorch
    summary: str
    again: Done
    slurm: str
    python: str


@pytest.fixture(scope="module", params=RELEASES)
def made(
    labs: Labs, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Made]:
    release = str(request.param)
    try:
        image.base(release)
    except LabError as error:
        cannot(str(error).splitlines()[0])
    with labs(release, HOSTS, release=release) as lab:
        home = tmp_path_factory.mktemp(release)
        cluster = WithoutTorch(lab, home, name=release, head="head", workers=("head", "n1"))
        setup = cluster.setup()
        assert setup.returncode == 0, setup.stdout[-3000:] + setup.stderr[-3000:]
        summary = cluster.summary()
        yield Made(cluster, summary, cluster.setup("--no-verify"), *VERSIONS[release])


def test_setup_passes_the_all_reduce_between_both_hosts(made: Made) -> None:
    assert "all-reduce head-n1" in made.summary, made.summary
    made.cluster.wait_idle(*HOSTS)


def test_a_second_run_changes_nothing(made: Made) -> None:
    assert made.again.returncode == 0, made.again.stderr[-3000:]
    assert made.cluster.changes(made.again) == dict.fromkeys(HOSTS, 0)


def test_its_slurm_takes_every_setting(made: Made) -> None:
    version = made.cluster.on_head("sinfo --version").stdout
    assert version.split("-")[-1].split()[-1].startswith(made.slurm), version
    for name in HOSTS:
        said = made.cluster.lab.inside(name, "sh", "-c", "cat /var/log/slurm/*.log").stdout
        wrong = [line for line in said.splitlines() if _REFUSED.search(line)]
        assert "slurm" in said and not wrong, (name, wrong)


def test_a_step_of_slurm_runs_on_both_hosts(made: Made) -> None:
    done = made.cluster.on_head("srun -N 2 --mem 64 hostname")
    assert sorted(done.stdout.split()) == HOSTS, done.stderr


def test_a_job_runs_on_both_hosts_without_torch(made: Made) -> None:
    cluster = made.cluster
    cluster.lab.ssh("head", "cat > ~/dto/hello.py", stdin=SCRIPT)
    run = cluster.submit("-N", "2", "--cpus-per-rank", "1", "--time", "5m", "hello.py")
    assert cluster.ended(run)["state"] == "COMPLETED", cluster.logs(run)
    said = re.findall(r"rank [01]/2 on (\w+): Python ([\d.]+)\.\d+,", cluster.logs(run))
    assert sorted(said) == [(name, made.python) for name in HOSTS], cluster.logs(run)
