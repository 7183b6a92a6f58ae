"""A cloud takes a node away in the midst of a job: it saves in time and goes on elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.helpers import PROGRAMS
from tests.lab.cluster import Cluster
from tests.lab.commands import wait_until
from tests.lab.lab import Lab
from tests.lab.provisioned import Joined

pytestmark = pytest.mark.timeout(600)
SERVICE = "metadata_service.py"
METADATA = "169.254.169.254"
NOTICE_SECONDS = 120.0
FACTS = "/etc/dto/node.json"


@pytest.fixture(scope="module")
def spot(joined: Joined) -> Iterator[Cluster]:
    """The shared cluster with two spot machines of Amazon's, each looking out for its notice."""
    cluster = joined.cluster
    cluster.wait_idle("n1", "n2", "n3")
    nodes = cluster.nodes_with(spot=True, hourly_usd=0.5)
    cluster.changed = {"provider": "aws", "nodes": nodes}
    done, again = cluster.setup("--no-verify"), cluster.setup("--no-verify")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert set(cluster.changes(again).values()) == {0}, again.stdout[-3000:]
    cluster.wait_idle("n1", "n2", "n3")
    yield cluster
    cluster.changed = {}


def serve_notices(lab: Lab, node: str) -> Path:
    """Give a host the metadata service of its cloud; what is in the file that returns is told."""
    (lab.shared / SERVICE).write_text((PROGRAMS / SERVICE).read_text())
    notice = lab.shared / f"notice-of-{node}"
    serve = ["python3", f"/shared/{SERVICE}", METADATA, f"/shared/{notice.name}"]
    lab.inside(node, "ip", "address", "add", f"{METADATA}/32", "dev", "lo")
    lab.inside(node, "systemd-run", "--unit=fake-metadata", *serve)
    return notice


def forget_soon(lab: Lab, seconds: int) -> None:
    """Have the head forget machines that are gone earlier than it does by itself."""
    facts = json.loads(lab.inside("head", "cat", FACTS).stdout) | {"gone_seconds": seconds}
    lab.ssh("head", f"sudo tee {FACTS}", stdin=json.dumps(facts))
    lab.inside("head", "systemctl", "restart", "dto-head")


def start_job(cluster: Cluster, name: str, nodes: str, spare: str) -> str:
    """Run a job on two nodes until it has made some steps; the third one is free from then on."""
    cluster.wait_idle("n1", "n2", "n3")
    cluster.on_head(f"sudo scontrol update nodename={spare} state=drain reason=later")
    run = cluster.steady("-N", "2", name=name)
    cluster.at_step(run, 10)
    assert ran_on(cluster, name) == nodes
    cluster.on_head(f"sudo scontrol update nodename={spare} state=resume")
    return run


def ran_on(cluster: Cluster, name: str) -> str:
    """The nodes that SLURM gave a job last."""
    line = f"squeue --noheader --states=all --name={name} --sort=-i --format=%N"
    return (cluster.on_head(line).stdout.split() or ["?"])[0]


def reason(cluster: Cluster, node: str) -> str:
    return cluster.on_head(f"sinfo --noheader --nodes={node} --format=%E").stdout.strip()


def saved_at(lab: Lab, run: str) -> float:
    """When the first attempt of a run had written its verdict, checkpoint and all."""
    verdict = min(lab.shared.glob(f"runs/*/{run}/attempt-*/result.json"))
    assert json.loads(verdict.read_text())["state"] == "PREEMPTED"
    return verdict.stat().st_mtime


def test_a_notice_saves_the_job_in_time_and_the_node_is_chosen_no_more(
    spot: Cluster, joined: Joined, unbroken: str
) -> None:
    lab = joined.lab
    notice = serve_notices(lab, "n2")
    run = start_job(spot, "noticed", "n[1-2]", spare="n3")
    end = time.time() + NOTICE_SECONDS
    when = datetime.fromtimestamp(end, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    notice.write_text(json.dumps({"action": "terminate", "time": when}))
    ended = spot.ended(run)
    assert ended["state"] == "COMPLETED", spot.logs(run)
    assert saved_at(lab, run) < end, "it was not saved within the notice"
    assert ran_on(spot, "noticed") == "n[1,3]"
    assert spot.weights("noticed") == unbroken
    assert set(spot.times_read("noticed")) == {spot.EPOCHS}, "a step was lost or repeated"
    assert "drain" in spot.nodes()["n2"] and "dto: spot notice: terminate" in reason(spot, "n2")

    lab.kill("n2")
    notice.unlink()
    forget_soon(lab, 2)
    wait_until(lambda: "n2" not in spot.nodes(), "SLURM to forget n2", timeout=90, every=1.0)
    lab.start("n2")
    spot.wait_idle("n1", "n2", "n3")


def test_a_machine_that_is_shut_down_lets_its_job_save_and_comes_back(
    spot: Cluster, joined: Joined, unbroken: str
) -> None:
    lab = joined.lab
    run = start_job(spot, "shut-down", "n[1-2]", spare="n3")
    lab.inside("n1", "systemctl", "poweroff", "--no-block")  # its batch shell runs there
    wait_until(lambda: lab.host("n1").leader() is None, "n1 to go off", timeout=90)
    off = time.time()
    assert "dto: spot notice: it shuts down" in reason(spot, "n1")
    ended = spot.ended(run)
    assert ended["state"] == "COMPLETED", spot.logs(run)
    assert saved_at(lab, run) < off
    assert ran_on(spot, "shut-down") == "n[2-3]"
    assert spot.weights("shut-down") == unbroken
    assert set(spot.times_read("shut-down")) == {spot.EPOCHS}, "a step was lost or repeated"
    lab.kill("n1")  # what systemd-nspawn leaves behind
    lab.start("n1")
    spot.wait_idle("n1")


def test_a_restart_of_the_unit_alone_leaves_nothing(spot: Cluster, joined: Joined) -> None:
    spot.wait_idle("n2")
    joined.lab.inside("n2", "systemctl", "restart", "dto-leave")
    assert spot.nodes()["n2"] == "idle"


def test_a_setup_with_a_plain_record_takes_all_of_it_away(spot: Cluster, joined: Joined) -> None:
    spot.wait_idle("n1", "n2", "n3")
    spot.changed = {}
    done = spot.setup("--no-verify")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in joined.lab.hosts:
        units = joined.lab.inside(name, "ls", "/etc/systemd/system").stdout.split()
        assert not {"dto-spot.service", "dto-leave.service", "dto-guard.service"} & set(units)
