"""What cannot become a cluster is refused in one line, before any file of any host changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.commands import run
from tests.lab.lab import Lab, Labs
from tests.lab.provisioned import Provisioned

HOSTS = ["head", "n1"]


@pytest.fixture(scope="module")
def bare(labs: Labs) -> Iterator[Lab]:
    with labs("refused", HOSTS) as lab:
        yield lab


@pytest.fixture
def cluster(bare: Lab, tmp_path: Path) -> Cluster:
    return Cluster(bare, tmp_path, name="refused", head="head", workers=("n1",))


def refused(cluster: Cluster, code: int, *words: str, flags: tuple[str, ...] = ()) -> None:
    """A setup leaves with `code` and one line that has all the words; no file has changed."""
    before = {name: cluster.lab.files(name) for name in HOSTS}
    done = cluster.setup("--no-verify", *flags, timeout=200)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert {name: cluster.lab.files(name) for name in HOSTS} == before


def record_with(cluster: Cluster, **changes: object) -> None:
    """Make the cluster's record say something else."""
    record = {**cluster.record(), **changes}
    cluster.record = lambda: record  # type: ignore[method-assign]


def test_a_head_that_is_away(cluster: Cluster) -> None:
    cluster.lab.cut("head")
    try:
        done = cluster.setup("--no-verify", timeout=200)
    finally:
        cluster.lab.mend("head")
        cluster.lab.wait_for("head")
    assert done.returncode == 3, done.stderr
    assert cluster.lab.address("head") in done.stderr and "Traceback" not in done.stderr
    assert "n1" not in cluster.changes(done)


def test_an_unknown_host_key(cluster: Cluster) -> None:
    record_with(cluster, host_keys={})
    refused(cluster, 3, "SHA256:", "--accept-new-host-keys")


def test_a_changed_host_key(cluster: Cluster, bare: Lab) -> None:
    keys = {bare.address(name): [bare.host("n1").host_key] for name in HOSTS}
    record_with(cluster, host_keys=keys)
    refused(cluster, 3, bare.address("head"), "another host key", "SHA256:")


def test_a_key_that_opens_nothing(cluster: Cluster) -> None:
    wrong = cluster.home / "wrong"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(wrong))
    record_with(cluster, ssh={"user": "admin", "key": str(wrong)})
    refused(cluster, 3, "admin", str(wrong))


def test_a_key_file_that_is_not_there(cluster: Cluster) -> None:
    missing = str(cluster.home / "no such key")
    refused(cluster, 2, missing, flags=("--private-key", missing))


def test_a_login_without_sudo(cluster: Cluster, bare: Lab) -> None:
    kept = bare.ssh("n1", "sudo sh -c 'ls /etc/sudoers.d/*'").stdout.split()
    rules = [path for path in kept if "README" not in path]
    for path in rules:
        bare.inside("n1", "mv", path, "/root/")
    try:
        refused(cluster, 5, "n1", "sudo")
    finally:
        for path in rules:
            bare.inside("n1", "mv", f"/root/{Path(path).name}", path)


def test_two_hosts_that_call_themselves_the_same(cluster: Cluster, bare: Lab) -> None:
    bare.inside("n1", "hostname", "head")
    flags = ("--master-ip", bare.address("head"), "--worker-ips", bare.address("n1"))
    reach = ("--user", "admin", "--private-key", str(bare.key), "--accept-new-host-keys")
    try:
        refused(cluster, 5, "'head'", bare.address("n1"), flags=(*flags, *reach))
    finally:
        bare.inside("n1", "hostname", "n1")


def test_one_name_for_two_hosts(cluster: Cluster, bare: Lab) -> None:
    nodes = [{"name": "head", "address": bare.address("n1")}]
    record_with(cluster, nodes=nodes)
    refused(cluster, 2, "head")


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("ID=fedora\\nVERSION_ID=41\\nPRETTY_NAME='Fedora Linux 41'", ("Fedora", "Debian 12")),
        ("ID=ubuntu\\nVERSION_ID=24.04\\nPRETTY_NAME=Ubuntu", ("ubuntu 24.04", "debian 12")),
    ],
)
def test_a_release_that_is_not_supported_or_mixed(
    cluster: Cluster, bare: Lab, release: str, words: tuple[str, ...]
) -> None:
    link = bare.host("n1").root / "etc/os-release"
    bare.inside("n1", "sh", "-c", f"rm /etc/os-release; printf \"{release}\\n\" > /etc/os-release")
    try:
        refused(cluster, 5, "n1", *words)
    finally:
        bare.inside("n1", "ln", "-sf", "../usr/lib/os-release", "/etc/os-release")
        assert link.is_symlink()


@pytest.mark.parametrize("flags", [("--worker-ips",), ("--total-gpus", "many"), ("--frobnicate",)])
def test_words_that_mean_nothing(cluster: Cluster, flags: tuple[str, ...]) -> None:
    refused(cluster, 2, flags=flags)


def test_a_worker_that_is_away_is_left_out(provisioned: Provisioned) -> None:
    cluster, lab = provisioned.cluster, provisioned.lab
    cluster.wait_idle("n1", "n2")
    lab.cut("n2")
    try:
        done = cluster.setup("--no-verify")
    finally:
        lab.mend("n2")
        lab.wait_for("n2")
    assert done.returncode == 3, done.stdout[-2000:] + done.stderr[-2000:]
    assert "n2" in cluster.summary() and "left out" in cluster.summary()
    changed = cluster.changes(done)
    assert "n2" not in changed and {"head", "n1"} <= changed.keys() and not any(changed.values())
    cluster.wait_idle("n2", timeout=300)


def test_a_full_disk_leaves_no_half_made_slurm(labs: Labs, tmp_path: Path) -> None:
    with labs("full", HOSTS) as lab:
        cluster = Cluster(lab, tmp_path, name="full", head="head", workers=("n1",))
        lab.inside("head", "mount", "-t", "tmpfs", "-o", "size=64k", "full", "/var/cache/apt")
        done = cluster.setup("--no-verify")
        assert done.returncode in (1, 5), done.stdout[-2000:] + done.stderr[-2000:]
        said = done.stderr.splitlines()[-1]
        assert "head" in said and "Traceback" not in done.stderr
        assert lab.inside("head", "pidof", "slurmctld", "slurmd").stdout == ""
        assert not (lab.host("head").root / "etc/slurm/slurm.conf").exists()


def test_a_refused_setup_is_not_remembered_as_a_cluster(cluster: Cluster) -> None:
    record_with(cluster, host_keys={})
    refused(cluster, 3, "SHA256:")
    status = cluster.dto("cluster", "status")
    assert status.returncode == 3 and "no cluster is known here" in status.stderr
