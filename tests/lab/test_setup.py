"""Bare hosts become a cluster that trains; a second run finds nothing to do."""

from __future__ import annotations

import re

import pytest

from tests.lab.provisioned import Provisioned

EXAMPLE = ("-N", "2", "--cpus-per-rank", "1", "--time", "10", "--sbatch", "nodelist=n1,n2")


def test_a_dry_run_on_bare_hosts_changes_no_file(provisioned: Provisioned) -> None:
    assert provisioned.dry_run.returncode == 0, provisioned.dry_run.stderr
    assert provisioned.changed_by_dry_run == {name: set() for name in provisioned.hosts}


def test_setup_verifies_the_cluster_and_says_what_to_type_next(provisioned: Provisioned) -> None:
    done = provisioned.setup
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert provisioned.summary in done.stdout
    assert "submit_job.sh" in provisioned.summary and "all-reduce n1-n2" in provisioned.summary
    assert provisioned.nodes == {"n1": "idle", "n2": "idle"}


def test_a_second_run_changes_nothing_anywhere(provisioned: Provisioned) -> None:
    assert provisioned.again.returncode == 0, provisioned.again.stderr[-3000:]
    changed = provisioned.cluster.changes(provisioned.again)
    assert changed == dict.fromkeys(provisioned.hosts, 0)


@pytest.mark.parametrize("backend", ["gloo", "horovod"])
def test_a_submitted_example_trains_on_two_nodes(provisioned: Provisioned, backend: str) -> None:
    cluster = provisioned.cluster
    words = ("--backend", backend, "--name", f"digits-{backend}")
    run = cluster.submit(*EXAMPLE, *words, "examples/simple_net.py", "--epochs", "4")
    assert cluster.ended(run)["state"] == "COMPLETED", cluster.logs(run)
    logs = cluster.logs(run)
    # SLURM orders dynamic nodes as they registered.
    ranks = dict(re.findall(r"rank (\d)/2 on (\w+)", logs))
    assert sorted(ranks) == ["0", "1"] and sorted(ranks.values()) == ["n1", "n2"], logs
    assert cluster.on_head(f"ls /shared/runs/admin/{run}/checkpoints/*/manifest.json").stdout


def test_the_cluster_test_of_the_examples_passes(provisioned: Provisioned) -> None:
    cluster = provisioned.cluster
    run = cluster.submit(*EXAMPLE, "examples/cluster_test.py")
    assert cluster.ended(run)["state"] == "COMPLETED", cluster.logs(run)


def test_daemons_listen_on_the_clusters_addresses_only(provisioned: Provisioned) -> None:
    for name in ("head", "n1"):
        sockets = provisioned.lab.inside(name, "ss", "-Hltnp").stdout.splitlines()
        ours = [line.split()[3] for line in sockets if "slurm" in line]
        assert ours and all(at.startswith(provisioned.lab.address(name)) for at in ours), sockets


def test_the_munge_key_is_for_munge_alone_and_the_same_everywhere(provisioned: Provisioned) -> None:
    def key(name: str) -> tuple[str, str]:
        mode = provisioned.lab.inside(name, "stat", "-c", "%a %U:%G", "/etc/munge/munge.key")
        return mode.stdout, provisioned.lab.inside(name, "sha256sum", "/etc/munge/munge.key").stdout

    keys = {key(name) for name in provisioned.hosts}
    [(mode, _)] = keys
    assert mode == "400 munge:munge\n"


def test_no_secret_is_in_a_log_or_the_record(provisioned: Provisioned) -> None:
    read = ["base64", "-w", "0", "/etc/munge/munge.key"]
    munge = provisioned.lab.inside("head", *read).stdout
    assert len(munge) > 40
    for path in provisioned.cluster.home.rglob("*"):
        if path.is_file() and path.stat().st_size < 20_000_000 and path.suffix != ".whl":
            text = path.read_bytes()
            assert munge[:40].encode() not in text, path
            assert b"PRIVATE KEY" not in text or "site-packages" in str(path), path


def test_a_password_opens_no_host(provisioned: Provisioned) -> None:
    for name in provisioned.hosts:
        said = provisioned.lab.inside(name, "/usr/sbin/sshd", "-T").stdout
        assert "\npasswordauthentication no\n" in said


def test_slurm_status_names_cluster_nodes_and_partitions(provisioned: Provisioned) -> None:
    done = provisioned.cluster.on_head("slurm_status.sh")
    assert done.returncode == 0, done.stderr
    for word in (provisioned.cluster.name, "n1", "n2", "idle"):
        assert word in done.stdout


def test_status_and_doctor_find_a_healthy_cluster(provisioned: Provisioned) -> None:
    cluster = provisioned.cluster
    status = cluster.dto("cluster", "status")
    assert status.returncode == 0 and "n2" in status.stdout, status.stderr
    doctor = cluster.dto("cluster", "doctor", timeout=180)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_a_backup_holds_what_a_head_needs(provisioned: Provisioned) -> None:
    archive = provisioned.cluster.home / "head.tar"
    done = provisioned.cluster.dto("cluster", "backup", str(archive), timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert archive.stat().st_mode & 0o777 == 0o600 and archive.stat().st_size > 1000
