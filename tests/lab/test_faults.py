"""Nodes die, lose their key and reboot: jobs end with the weights of an unbroken run."""

from __future__ import annotations

import pytest

from tests.lab.commands import wait_until
from tests.lab.provisioned import Provisioned, takes_a_job

pytestmark = pytest.mark.timeout(900)
EVERY = 5


def test_a_node_that_dies_costs_one_interval_and_comes_back(
    provisioned: Provisioned, unbroken: str
) -> None:
    cluster, lab = provisioned.cluster, provisioned.lab
    cluster.wait_idle("n1", "n2")
    run = cluster.steady("-N", "2", "--sbatch", "nodelist=n1,n2", name="dying", every=EVERY)
    cluster.at_step(run, 12)
    lab.kill("n2")
    wait_until(lambda: "down" in cluster.nodes()["n2"], "n2 to be marked down", timeout=240)
    lab.start("n2")
    cluster.wait_idle_or_busy("n2")
    assert cluster.ended(run)["state"] == "COMPLETED", cluster.logs(run)
    assert cluster.weights("dying") == unbroken
    assert cluster.repeated_steps("dying") <= EVERY
    cluster.wait_idle("n2")
    takes_a_job(cluster, "n2")


def test_the_gate_keeps_a_node_out_until_its_fault_is_gone(provisioned: Provisioned) -> None:
    cluster, lab = provisioned.cluster, provisioned.lab
    cluster.wait_idle("n2")
    lab.inside("n2", "systemctl", "stop", "slurmd", "munge")
    lab.inside("n2", "mv", "/etc/munge/munge.key", "/etc/munge/kept")
    lab.reboot("n2")
    wait_until(
        lambda: "munge" in lab.inside("n2", "journalctl", "-b", "-u", "dto-gate").stdout,
        "the gate to complain of munge", timeout=90,
    )  # fmt: skip
    assert lab.inside("n2", "systemctl", "is-active", "slurmd").stdout.strip() != "active"
    lab.inside("n2", "mv", "/etc/munge/kept", "/etc/munge/munge.key")
    cluster.wait_idle("n2")


def test_an_operators_drain_is_not_undone(provisioned: Provisioned) -> None:
    cluster = provisioned.cluster
    cluster.wait_idle("n1")
    cluster.on_head("sudo scontrol update nodename=n1 state=drain reason='new fan'")
    again = cluster.setup("--no-verify")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "drain" in cluster.nodes()["n1"]
    cluster.on_head("sudo scontrol update nodename=n1 state=resume")
    cluster.wait_idle("n1")


def test_a_job_survives_the_heads_reboot(provisioned: Provisioned, unbroken: str) -> None:
    cluster, lab = provisioned.cluster, provisioned.lab
    cluster.wait_idle("n1", "n2")
    run = cluster.steady("-N", "2", "--sbatch", "nodelist=n1,n2", name="headless", every=EVERY)
    cluster.at_step(run, 8)
    lab.reboot("head")
    ended = cluster.ended(run)
    assert (ended["state"], ended["attempt"]) == ("COMPLETED", 1), cluster.logs(run)
    assert cluster.weights("headless") == unbroken
