"""Accounts, an upgrade node by node, and a lost head that comes back from a backup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import layers
from tests.lab.cluster import Cluster
from tests.lab.commands import wait_until
from tests.lab.lab import Labs
from tests.lab.newer import SUFFIX, publish, upgrades, versions

pytestmark = pytest.mark.timeout(900)
_USER = "ada"
_NEWER = {"munge": "head", "slurmctld": "head", "slurmd": "n1"}


class Accounted(Cluster):
    """A cluster that keeps accounts."""

    def record(self) -> dict[str, Any]:
        record = super().record()
        return {**record, "slurm": {**record["slurm"], "accounting": True}}

    def ran(self, user: str = _USER) -> int:
        """Run a job of a user to its end; its id."""
        line = "sbatch --parsable --wait --chdir=/tmp --output=/dev/null --wrap true"
        done = self.on_head(f"sudo -u {user} {line}", timeout=120)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def accounts(self, job: int) -> str:
        """What the database says of a job."""
        line = "sudo sacct --allusers --allocations --noheader --parsable2"
        return self.on_head(f"{line} --jobs={job} --format=jobid,user,account,state").stdout.strip()

    def munge_key(self, name: str) -> str:
        return self.lab.inside(name, "sha256sum", "/etc/munge/munge.key").stdout.split()[0]

    def controller(self) -> str:
        return self.on_head("pidof slurmctld").stdout


@pytest.fixture(scope="module")
def kept(labs: Labs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounted]:
    with labs("upkeep", ["head", "n1"], wheels=True) as lab:
        layers.lend(lab)
        home = tmp_path_factory.mktemp("upkeep")
        cluster = Accounted(lab, home, name="kept", head="head", workers=("n1",))
        done = cluster.setup("--no-verify")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield cluster


def test_a_known_users_job_is_accounted_for(kept: Accounted) -> None:
    job = kept.ran()
    expected = f"{job}|{_USER}|kept|COMPLETED"
    wait_until(lambda: kept.accounts(job) == expected, f"sacct to say {expected}", 30, every=1)
    known = kept.on_head("sacctmgr --noheader --parsable2 list associations format=account,user")
    assert {f"kept|{_USER}", "kept|admin"} <= set(known.stdout.split()), known.stderr


def test_an_unknown_users_job_is_refused_in_slurms_words(kept: Accounted) -> None:
    kept.on_head("id stranger || sudo useradd --create-home stranger")
    done = kept.on_head("sudo -u stranger srun --chdir=/tmp true")
    assert done.returncode != 0 and "Invalid account" in done.stderr, done.stdout + done.stderr


def test_an_upgrade_goes_through_the_cluster_while_a_job_goes_on(kept: Accounted) -> None:
    lab = kept.lab
    kept.wait_idle("n1")
    publish(lab, _NEWER)
    lab.ssh("n1", "sudo apt-mark hold slurmd")
    epochs = 10  # so that it still runs when the turn comes to its node
    run = kept.steady("-N", "1", name="upgraded", epochs=epochs)
    kept.at_step(run, 5)
    done = kept.dto("cluster", "upgrade", timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name, packages in (("head", ["munge", "slurmctld"]), ("n1", ["munge", "slurmd"])):
        assert all(v.endswith(SUFFIX) for v in versions(lab, name, packages).values()), name
    seen = upgrades(lab)
    assert [host for host, _, _ in seen] == ["head", "head", "n1", "n1"], seen
    assert [jobs for host, _, jobs in seen if host == "n1"] == [0, 0], "a job was on the node"
    assert lab.ssh("n1", "apt-mark showhold").stdout.split() == ["slurmd"]
    ended = kept.ended(run)
    assert ended["state"] == "COMPLETED" and ended["attempt"] == 2, kept.logs(run)
    assert set(kept.times_read("upgraded")) == {epochs}, "a sample was lost or repeated"
    kept.wait_idle("n1")
    before = kept.controller()
    again = kept.dto("cluster", "upgrade", timeout=300)
    assert again.returncode == 0 and "n1 is up to date" in again.stdout, again.stderr
    assert kept.controller() == before


def test_a_damaged_backup_changes_nothing(kept: Accounted, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    saved = kept.dto("cluster", "backup", str(whole))
    assert saved.returncode == 0, saved.stdout + saved.stderr
    cut.write_bytes(whole.read_bytes()[:-20])
    before = kept.controller(), kept.munge_key("head")
    refused = kept.dto("cluster", "restore", "--yes", str(cut))
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert "no whole backup" in refused.stderr and "nothing was changed" in refused.stderr
    assert before == (kept.controller(), kept.munge_key("head"))


def test_a_fresh_head_takes_the_place_of_a_lost_one(kept: Accounted, tmp_path: Path) -> None:
    kept.wait_idle("n1")
    job, key, archive = kept.ran(), kept.munge_key("head"), tmp_path / "head.tar.gz"
    wait_until(lambda: kept.accounts(job).endswith("COMPLETED"), "the job's row", 30, every=1)
    kept.on_head("sudo scontrol update nodename=n1 state=drain reason='a loud fan'")
    saved = kept.dto("cluster", "backup", str(archive))
    assert saved.returncode == 0 and archive.stat().st_mode & 0o777 == 0o600, saved.stderr
    kept.lab.replace("head")
    fresh = kept.setup("--no-verify")
    assert fresh.returncode == 0, fresh.stdout[-3000:] + fresh.stderr[-3000:]
    assert kept.munge_key("head") != key and kept.accounts(job) == ""
    restored = kept.dto("cluster", "restore", "--yes", str(archive))
    assert restored.returncode == 0, restored.stdout[-3000:] + restored.stderr[-3000:]
    assert kept.munge_key("head") == kept.munge_key("n1") == key
    assert kept.accounts(job) == f"{job}|{_USER}|kept|COMPLETED"
    assert "a loud fan" in kept.on_head("sinfo --noheader --list-reasons").stdout
    kept.on_head("sudo scontrol update nodename=n1 state=resume")
    assert kept.ran() > job
    again = kept.setup("--no-verify")
    assert kept.changes(again) == {"head": 0, "n1": 0}, again.stdout[-3000:]
