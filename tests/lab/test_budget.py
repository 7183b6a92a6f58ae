"""The budget is used up in the midst of a job: it saves, the nodes go off; raised, it goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import Cluster
from tests.lab.commands import wait_until
from tests.lab.lab import Lab
from tests.lab.provisioned import Provisioned, takes_a_job

pytestmark = pytest.mark.timeout(900)
HOURLY = 900.0  # two nodes use half a dollar a second
SMALL, LARGE = 40.0, 1e6


class Switch:
    """The power switch of the lab's hosts, which the head turns by files on the shared folder."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._over = lab, threading.Event()
        self.folder = lab.shared / "power"
        self.folder.mkdir(exist_ok=True)
        self.turned: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def commands(self) -> dict[str, str]:
        return {way: f"touch /shared/power/{{name}}.{way}" for way in ("on", "off")}

    def _run(self) -> None:
        while not self._over.wait(0.3):
            for order in sorted(self.folder.iterdir()):
                self._obey(order)

    def _obey(self, order: Path) -> None:
        order.unlink()
        self.turned.append(order.name)
        if order.suffix == ".off":
            self._lab.kill(order.stem)
        else:
            self._lab.start(order.stem, wait=False)

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def switch(provisioned: Provisioned) -> Iterator[Switch]:
    switch = Switch(provisioned.lab)
    yield switch
    switch.close()
    provisioned.cluster.changed = {}
    for name in provisioned.lab.hosts:
        provisioned.lab.start(name)


def with_budget(cluster: Cluster, switch: Switch, amount: float) -> None:
    cluster.changed = {}
    cluster.changed = {
        "nodes": cluster.nodes_with(hourly_usd=HOURLY),
        "budget": {"amount": amount}, "power": switch.commands(),
    }  # fmt: skip


def report(cluster: Cluster) -> dict[str, Any]:
    done = cluster.on_head("sudo python3 /usr/local/lib/dto/node.pyz guard --report")
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_a_budget_that_is_used_up_saves_jobs_and_switches_nodes_off_until_it_is_raised(
    provisioned: Provisioned, switch: Switch, unbroken: str
) -> None:
    cluster, lab = provisioned.cluster, provisioned.lab
    workers = [name for name in lab.hosts if name != "head"]
    cluster.wait_idle("n1", "n2")
    with_budget(cluster, switch, SMALL)
    done = cluster.setup("--no-verify")  # the guard counts from its last play on
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = cluster.steady("-N", "2", "--sbatch", "nodelist=n1,n2", name="costly", pace=2.0)

    wait_until(
        lambda: all(lab.host(name).leader() is None for name in workers), "the nodes to go off",
        timeout=180,
    )  # fmt: skip
    assert sorted(switch.turned) == [f"{name}.off" for name in workers]
    queued = cluster.on_head("squeue --noheader --name=costly --format=%T").stdout.strip()
    assert queued == "PENDING", cluster.logs(run)
    [verdict] = lab.shared.glob(f"runs/*/{run}/attempt-*/result.json")
    assert json.loads(verdict.read_text())["state"] == "PREEMPTED"
    used = report(cluster)
    assert used["state"] == "exhausted" and used["amount"] >= SMALL and used["on"] == ["head"]
    rows = map(json.loads, (lab.shared / "dto/cost/journal.jsonl").read_text().splitlines())
    assert [row["event"] for row in rows if "hours" in row] == ["warned", "exhausted"]
    assert "until the budget is raised" in (lab.shared / "dto/notices/budget").read_text()
    reasons = cluster.on_head("sinfo --noheader --nodes=n1 --format=%E").stdout
    assert reasons.startswith("dto: budget")

    lab.inside("head", "systemctl", "restart", "dto-guard")
    now = report(cluster)["node_hours"]
    assert all(now[name] == used["node_hours"][name] for name in workers), "it is off"

    with_budget(cluster, switch, LARGE)
    raised = cluster.setup("--no-verify")
    said = raised.stdout + raised.stderr
    assert raised.returncode == 0 and "left out" not in said, said[-3000:]
    for name in workers:
        assert f"{name} is switched off by the guard (budget); it comes back" in said
    ended = cluster.ended(run)
    assert ended["state"] == "COMPLETED", cluster.logs(run)
    assert cluster.weights("costly") == unbroken
    assert set(cluster.times_read("costly")) == {cluster.EPOCHS}, "a step was lost or repeated"
    assert sorted(switch.turned[len(workers) :]) == [f"{name}.on" for name in workers]
    assert report(cluster)["state"] == "ok"
    assert not (lab.shared / "dto/notices/budget").exists()
    cluster.wait_idle("n1", "n2")


def test_an_idle_node_goes_off_and_comes_back_for_a_job(
    provisioned: Provisioned, switch: Switch
) -> None:
    cluster, lab = provisioned.cluster, provisioned.lab
    cluster.wait_idle("n1", "n2")
    cluster.changed = {"budget": {"idle_minutes": 0.1}, "power": switch.commands()}
    done = cluster.setup("--no-verify")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("n1", "n2"):
        wait_until(lambda name=name: lab.host(name).leader() is None, f"{name} to go off", 90)
    assert "n2" in takes_a_job(cluster, "n2")
    assert "n2.on" in switch.turned
    cluster.changed = {}
    lab.inside("head", "systemctl", "stop", "dto-guard")
    for name in lab.hosts:
        lab.start(name)
    plain = cluster.setup("--no-verify")
    assert plain.returncode == 0, plain.stdout[-3000:] + plain.stderr[-3000:]
    assert cluster.on_head("test -e /etc/dto/guard.json").returncode == 1
    cluster.wait_idle("n1", "n2")
