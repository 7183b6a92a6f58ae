"""A node joins, and a busy one leaves: running jobs and slurmctld do not notice."""

from __future__ import annotations

import pytest

from tests.lab.provisioned import Joined, takes_a_job

pytestmark = pytest.mark.timeout(900)


def test_a_node_joins_under_a_running_job(joined: Joined) -> None:
    assert joined.done.returncode == 0, joined.done.stdout[-3000:] + joined.done.stderr[-3000:]
    assert joined.slurmctld_before == joined.slurmctld_after
    assert joined.during["attempt"] == 1 and joined.during["state"] == "RUNNING"
    assert joined.step_before < joined.step_after, "the job stood still while the node joined"


def test_the_new_node_takes_the_next_job(joined: Joined) -> None:
    assert "n3" in takes_a_job(joined.cluster, "n3")


def test_a_person_has_one_uid_and_their_keys_on_the_new_node_too(joined: Joined) -> None:
    public = joined.lab.key.with_suffix(".pub").read_text().split()[1]
    for name in ("head", "n1", "n3"):
        assert joined.lab.inside(name, "id", "-u", "ada").stdout == "2001\n"
        keys = joined.lab.inside(name, "cat", "/home/ada/.ssh/authorized_keys").stdout
        assert public in keys, name


def test_a_busy_node_is_removed_and_its_job_goes_on_elsewhere(
    joined: Joined, unbroken: str
) -> None:
    cluster = joined.cluster
    cluster.wait_idle("n1", "n2", "n3")
    cluster.on_head("sudo scontrol update nodename=n3 state=drain reason=later")
    run = cluster.steady("-N", "2", name="leaving")
    cluster.at_step(run, 10)
    cluster.on_head("sudo scontrol update nodename=n3 state=resume")
    done = cluster.dto("cluster", "remove", "n2", timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "n2" not in cluster.nodes()
    ended = cluster.ended(run)
    assert ended["state"] == "COMPLETED", cluster.logs(run)
    assert cluster.weights("leaving") == unbroken
    assert set(cluster.times_read("leaving")) == {cluster.EPOCHS}, "a sample was lost or repeated"
    back = cluster.setup("--join", f"n2={joined.lab.address('n2')}")
    assert back.returncode == 0, back.stdout[-3000:] + back.stderr[-3000:]
    cluster.wait_idle("n2")
