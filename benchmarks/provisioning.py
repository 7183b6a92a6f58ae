"""How long bare lab hosts take to their first job, a second run and a join (root; minutes)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import LeftOut, Measure, ratio, summary
from tests.lab.cluster import Cluster
from tests.lab.lab import Lab
from tests.layers import NEEDS

_JOB = ("-N", "2", "--cpus-per-rank", "1", "--time", "5")


def run(quick: bool) -> list[Measure]:
    """The quick form is one round without the growth to six nodes; it, too, takes minutes."""
    if missing := NEEDS["lab"]():
        raise LeftOut(missing)
    rounds = [_round(index, grow=not quick and index == 0) for index in range(1 if quick else 3)]
    figures = {name: [one[name] for one in rounds if name in one] for name in rounds[0]}
    measures = [summary(f"provisioning.{name}", "s", seconds) for name, seconds in figures.items()]
    again, first = figures["second_run.seconds"], figures["first_run.seconds"]
    return [*measures, ratio("provisioning.second_run.over_first", again, first)]


def _round(index: int, grow: bool) -> dict[str, float]:
    """One lab from bare hosts on; the verification at the end of a setup counts."""
    more = ["n3", "n4", "n5", "n6"] if grow else ["n3"]
    hosts = ["head", "n1", "n2", *more]
    with (
        Lab.up(f"bench-{index}", hosts, wheels=True) as lab,
        tempfile.TemporaryDirectory() as home,
    ):
        cluster = Cluster(lab, Path(home), name="bench", head="head", workers=("n1", "n2"))
        began = time.monotonic()
        seconds = {"first_run.seconds": _timed(lambda: _setup(cluster))}
        job = cluster.submit(*_JOB, "examples/test_environment.py")
        _check(cluster.ended(job)["state"] == "COMPLETED", cluster.logs(job))
        seconds["first_job.seconds"] = time.monotonic() - began
        seconds["second_run.seconds"] = _timed(lambda: _setup(cluster, unchanged=True))
        seconds["join.seconds"] = _joined_beside_a_job(cluster)
        if grow:
            rest = [_timed(lambda name=name: _join(cluster, name)) for name in more[1:]]
            seconds["growth_from_2_to_6.seconds"] = seconds["join.seconds"] + sum(rest)
        return seconds


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _check(holds: bool, words: str) -> None:
    if not holds:
        raise RuntimeError(words[-3000:])


def _setup(cluster: Cluster, unchanged: bool = False) -> None:
    done = cluster.setup()
    _check(done.returncode == 0, done.stdout + done.stderr)
    changes = cluster.changes(done)
    _check(not unchanged or not any(changes.values()), f"the second run changed {changes}")


def _join(cluster: Cluster, name: str) -> None:
    """From the command's start until the node is idle, past its gate."""
    done = cluster.setup("--join", f"{name}={cluster.lab.address(name)}")
    _check(done.returncode == 0, done.stdout + done.stderr)
    cluster.wait_idle(name)


def _joined_beside_a_job(cluster: Cluster) -> float:
    job = cluster.steady("-N", "2", name="beside", epochs=100)
    cluster.at_step(job, 3)
    controller = cluster.on_head("pidof slurmctld").stdout
    seconds = _timed(lambda: _join(cluster, "n3"))
    now = cluster.status(job)
    _check(cluster.on_head("pidof slurmctld").stdout == controller, "slurmctld was restarted")
    _check((now["state"], now["attempt"]) == ("RUNNING", 1), f"the job was touched: {now}")
    cluster.on_head(f"dto cancel {job}")
    return seconds
