"""Hosts that the operator reaches only through another host: looked at, and set up, through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.commands import run
from tests.lab.image import LOGIN
from tests.lab.lab import Lab, Labs

pytestmark = pytest.mark.timeout(300)
MEMBERS = ("head", "n1")


@pytest.fixture(scope="module")
def walled(labs: Labs) -> Iterator[Lab]:
    """The operator's way to the cluster's hosts is closed; that to `door` is open."""
    with labs("walled", ["door", *MEMBERS]) as lab:
        close_the_way(lab, *MEMBERS)
        yield lab


def close_the_way(lab: Lab, *names: str) -> None:
    """Refuse ssh from this machine to hosts; the table goes with the lab."""
    where = ("ip", lab.network.table, "direct")
    run("nft", "add", "chain", *where, "{ type filter hook output priority 0; }")
    for name in names:
        run("nft", "add", "rule", *where, "ip", "daddr", lab.address(name), "tcp", "dport", "22",
            "reject", "with", "tcp", "reset")  # fmt: skip


class Walled(Cluster):
    """Its record names a bastion, and the hosts whose keys somebody noted down."""

    bastion = ""
    known = ("door", *MEMBERS)

    def record(self) -> dict[str, object]:
        found = super().record()
        found["ssh"] = {**found["ssh"], "bastion": self.bastion}
        found["host_keys"] = {self.lab.address(n): [self.lab.host(n).host_key] for n in self.known}
        return found


@pytest.fixture
def cluster(walled: Lab, tmp_path: Path) -> Walled:
    made = Walled(walled, tmp_path, name="walled", head="head", workers=("n1",))
    made.bastion = walled.address("door")
    return made


def refused(
    cluster: Cluster, *words: str, flags: tuple[str, ...] = (), code: int = 3
) -> None:
    """A dry run leaves with `code` and one line that has all the words."""
    done = cluster.setup("--check", *flags, timeout=120)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def came_from(lab: Lab, name: str) -> list[str]:
    """The addresses from which a host was logged in to."""
    said = lab.inside(name, "journalctl", "--no-pager", "--output=cat", "--unit=ssh").stdout
    return [line.split(" from ")[1].split()[0] for line in said.splitlines() if "Accepted" in line]


def test_a_door_that_nobody_vouched_for_is_confirmed_and_then_carries_all(
    cluster: Walled, walled: Lab
) -> None:
    cluster.known = ()
    before = {name: len(came_from(walled, name)) for name in MEMBERS}
    done = cluster.setup("--check", "--accept-new-host-keys", timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in MEMBERS:
        logins = came_from(walled, name)[before[name] :]
        # paramiko's look, after keys were learnt, and Ansible's play
        assert len(logins) >= 2 and set(logins) == {walled.address("door")}, logins


def test_the_head_may_be_the_door(cluster: Walled, walled: Lab) -> None:
    table = ("ip", walled.network.table, "direct")
    run("nft", "flush", "chain", *table)
    try:
        run("nft", "add", "rule", *table, "ip", "daddr", walled.address("n1"), "tcp", "dport",
            "22", "reject", "with", "tcp", "reset")  # fmt: skip
        before = len(came_from(walled, "n1"))
        cluster.bastion = f"{LOGIN}@{walled.address('head')}"
        # what only Ansible looks at, so that the run ends there
        other = "printf 'ID=fedora\\nVERSION_ID=41\\n' > /etc/os-release"
        walled.inside("n1", "sh", "-c", f"rm /etc/os-release; {other}")
        refused(cluster, "n1", "fedora", code=5)
        logins = came_from(walled, "n1")[before:]
        assert len(logins) >= 2 and set(logins) == {walled.address("head")}, logins
    finally:
        walled.inside("n1", "ln", "-sf", "../usr/lib/os-release", "/etc/os-release")
        run("nft", "delete", "chain", *table)
        close_the_way(walled, *MEMBERS)


def test_a_door_that_nobody_vouched_for_is_not_trusted(cluster: Walled, walled: Lab) -> None:
    cluster.known = MEMBERS
    refused(cluster, walled.address("door"), "SHA256:", "--accept-new-host-keys")


def test_without_the_door_the_head_is_away(cluster: Walled, walled: Lab) -> None:
    cluster.bastion = f"{LOGIN}@{walled.address('head')}"
    refused(cluster, walled.address("head"), "nothing was changed")


def test_a_door_with_another_key_than_it_had_is_refused(cluster: Walled, walled: Lab) -> None:
    found = cluster.record()
    found["host_keys"][walled.address("door")] = [walled.host("n1").host_key]
    cluster.record = lambda: found  # type: ignore[method-assign]
    refused(cluster, walled.address("door"), "another host key", "SHA256:")


def test_a_key_that_does_not_open_the_door(cluster: Walled, walled: Lab) -> None:
    wrong = cluster.home / "wrong"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(wrong))
    refused(cluster, walled.address("door"), LOGIN, flags=("--private-key", str(wrong)))


def test_a_door_that_carries_nothing_on(cluster: Walled, walled: Lab) -> None:
    rule = "/etc/ssh/sshd_config.d/00-closed.conf"
    walled.inside("door", "sh", "-c", f"echo AllowTcpForwarding no > {rule}")
    walled.inside("door", "systemctl", "reload", "ssh")
    try:
        refused(cluster, walled.address("door"), "cannot reach it for us")
    finally:
        walled.inside("door", "rm", rule)
        walled.inside("door", "systemctl", "reload", "ssh")
