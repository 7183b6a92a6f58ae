"""The acceptance gate of a cluster: through SLURM itself, on every node that no job runs on."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dto.cluster.node import slurm
from dto.cluster.node.commands import run
from dto.cluster.node.errors import NodeError
from dto.cluster.node.facts import Node

_log = logging.getLogger("dto.verify")
_RESERVATION = "dto-verify"
_TESTABLE_REASONS = ("verify", "gate", "health")


@dataclass
class Report:
    """What was found; `left_out` are nodes that could not be looked at, with why."""

    problems: dict[str, list[str]] = field(default_factory=dict)
    gpus: dict[str, int] = field(default_factory=dict)
    gbps: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def blame(self, name: str, problem: str) -> None:
        self.problems.setdefault(name, []).append(problem)

    def to_json(self, tested: Iterable[str]) -> dict[str, Any]:
        good = sorted(set(tested) - set(self.problems))
        return {"good": good, "problems": self.problems, "gpus": self.gpus, "gbps": self.gbps,
                "left_out": self.left_out}  # fmt: skip


def choose(
    states: Sequence[slurm.NodeState], wanted: Sequence[str]
) -> tuple[list[slurm.NodeState], dict[str, str]]:
    """Return the nodes to test and, for the others, why not. Pure."""
    chosen, left_out = [], {}
    for state in states:
        if wanted and state.name not in wanted:
            continue
        if not state.answers:
            left_out[state.name] = f"is down ({state.reason or 'it does not answer'})"
        elif state.flags & {"ALLOCATED", "MIXED", "COMPLETING"}:
            left_out[state.name] = "is busy with a job"
        elif state.is_drained and not state.has_reason(*_TESTABLE_REASONS):
            left_out[state.name] = f"is drained ({state.reason})"
        else:
            chosen.append(state)
    known = {state.name for state in states}
    return chosen, left_out | {name: "is not in SLURM" for name in wanted if name not in known}


def rounds(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Return pairs of neighbours in a ring, in rounds in which no node is asked twice. Pure."""
    ring = sorted(names)
    if len(ring) < 2:
        return []
    pairs = list(zip(ring, [*ring[1:], ring[0]], strict=True))
    if len(ring) == 2:
        return [pairs[:1]]
    if len(ring) % 2 == 0:
        return [pairs[0::2], pairs[1::2]]
    return [pairs[0:-1:2], pairs[1::2], pairs[-1:]]


def verify(node: Node, wanted: Sequence[str], minimum_gbps: float, limit: float) -> Report:
    """Test, drain what fails with its reason, and let what was drained by us and passes go."""
    chosen, left_out = choose(slurm.nodes(), wanted)
    report = Report(left_out=left_out)
    if not chosen:
        return report
    with _reserved(chosen):
        for state in chosen:
            if state.is_drained:
                slurm.resume(state.name)
        _Trial(node, chosen, report, limit).run(minimum_gbps)
        for name, problems in report.problems.items():
            slurm.drain(name, f"{slurm.OURS} verify: {'; '.join(problems)}")
    return report


class _Trial:
    """One run over the chosen nodes, each step of it a job step of SLURM."""

    def __init__(
        self, node: Node, chosen: Sequence[slurm.NodeState], report: Report, limit: float
    ) -> None:
        self._node = node
        self._states = {state.name: state for state in chosen}
        self._report = report
        self._limit = limit
        self._token = secrets.token_hex(8)

    def run(self, minimum_gbps: float) -> None:
        folder = Path(self._node.shared) / "dto/probe"
        try:
            self._each(self._states, self._inspect)
            self._each(self._good(), self._read_others)
            for pairs in rounds(self._good()):
                self._each(pairs, lambda pair: self._reduce(pair, minimum_gbps))
        finally:
            for left in folder.glob(f"verify-{self._token}-*"):
                left.unlink(missing_ok=True)

    def _good(self) -> list[str]:
        return sorted(set(self._states) - set(self._report.problems))

    def _each(self, items: Iterable[Any], step: Callable[[Any], None]) -> None:
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(step, list(items)))

    def _srun(self, names: Sequence[str], *words: str, gpus: int = 0) -> list[dict[str, Any]]:
        """Run this program on nodes and return the line of JSON that each of them wrote."""
        argv = ["srun", f"--nodes={len(names)}", f"--ntasks={len(names)}",
                f"--nodelist={','.join(names)}", f"--reservation={_RESERVATION}",
                "--partition=all", "--time=5", "--quiet", "--immediate=60", "--mpi=none",
                "--chdir=/", "--job-name=dto-verify", "--cpus-per-task=1", "--mem=64",
                *([f"--gres=gpu:{gpus}"] if gpus else []),
                "/usr/bin/python3", "/usr/local/lib/dto/node.pyz", *words]  # fmt: skip
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SRUN_"))}
        done = run(*argv, timeout=self._limit, env=env)
        if done.code:
            raise NodeError(done.said[:200])
        return [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]

    def _inspect(self, name: str) -> None:
        gpus = self._states[name].gpus
        try:
            seen = self._srun([name], "inspect", "--write", self._token, gpus=gpus)[0]
        except (NodeError, IndexError, ValueError) as error:
            self._report.blame(name, f"no job step ran there: {error}")
            return
        self._report.gpus[name] = int(seen["gpus"])
        if int(seen["gpus"]) != gpus:
            self._report.blame(name, f"a job saw {seen['gpus']} of {gpus} GPUs")
        for problem in seen["problems"]:
            self._report.blame(name, problem)

    def _read_others(self, name: str) -> None:
        others = [other for other in self._good() if other != name]
        if not others:
            return
        try:
            seen = self._srun([name], "inspect", "--read", self._token, *others)[0]
        except (NodeError, IndexError, ValueError) as error:
            self._report.blame(name, f"no job step ran there: {error}")
            return
        for problem in seen["problems"]:
            self._report.blame(name, problem)

    def _reduce(self, pair: tuple[str, str], minimum_gbps: float) -> None:
        places = [f"{name}={self._states[name].address}" for name in pair]
        try:
            rows = self._srun(pair, "pair", *places)
        except (NodeError, ValueError) as error:
            rows = []
            failure = str(error)
        else:
            failure = "; ".join(str(row["problem"]) for row in rows if row["problem"])
        speeds = [float(row["gbps"]) for row in rows if not row["problem"]]
        if not failure and speeds:
            self._report.gbps["-".join(pair)] = round(min(speeds), 3)
            if min(speeds) < minimum_gbps:
                failure = f"{min(speeds):.2f} Gbit/s, {minimum_gbps:g} are expected"
        for name in pair if failure else ():
            self._report.blame(name, f"all-reduce of {pair[0]} with {pair[1]}: {failure}")


@contextmanager
def _reserved(chosen: Sequence[slurm.NodeState]) -> Iterator[None]:
    """Keep other jobs off the nodes while they are tested."""
    slurm.scontrol("delete", f"reservationname={_RESERVATION}")
    names = slurm.plain_names(state.name for state in chosen)
    slurm.change("create", "reservation", f"reservationname={_RESERVATION}", "starttime=now",
                 "duration=60", "users=root", "flags=maint,ignore_jobs",
                 f"nodes={names}")  # fmt: skip
    try:
        yield
    finally:
        until = time.monotonic() + 30
        while slurm.scontrol("delete", f"reservationname={_RESERVATION}").code:
            if time.monotonic() > until:
                _log.warning("the reservation %s stays for an hour", _RESERVATION)
                break
            time.sleep(1)


def summary(report: Mapping[str, Any]) -> list[str]:
    """Return what was found, in lines for people."""
    lines = [f"{name} passed, {report['gpus'].get(name, 0)} GPUs" for name in report["good"]]
    lines += [f"all-reduce {pair}: {gbps:g} Gbit/s" for pair, gbps in report["gbps"].items()]
    lines += [f"{name} was not tested: it {why}" for name, why in report["left_out"].items()]
    for name, problems in report["problems"].items():
        lines.append(f"{name} FAILED and stays drained: {'; '.join(problems)}")
    return lines
