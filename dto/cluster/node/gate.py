"""What a host must pass before its slurmd may start: a node takes jobs the moment it registers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dto.cluster.node import peer, probes, slurm, spot
from dto.cluster.node.commands import run
from dto.cluster.node.errors import MungeError, NodeError, UnreachableError
from dto.cluster.node.facts import RUN, Node, memory_mib, slurmd_options

_log = logging.getLogger("dto.gate")
_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Verdict:
    """Why the gate stays closed, and what else was seen."""

    problems: tuple[str, ...]
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return not self.problems

    @property
    def reason(self) -> str:
        return f"{slurm.OURS} gate: {'; '.join(self.problems)}"


def examine(node: Node) -> Verdict:
    """Look at the host, then at its way to the head, then at a peer; stop where no more is told."""
    notes: dict[str, object] = {}
    problems = _local(node)
    try:
        hello = peer.ask(node.head_address, node.peer_port, "hello", name=node.name)
    except (UnreachableError, MungeError) as error:
        return Verdict((*problems, f"the head: {error}"), notes)
    problems += judge_hello(node, hello, lambda: probes.mark(node))
    notes["clock_skew_seconds"] = round(float(hello["skew"]), 3)
    if not problems and not node.is_head:
        problems += _reduce(node, hello.get("idle", ()), notes)
    return Verdict(tuple(problems), notes)


def _local(node: Node) -> list[str]:
    found = probes.gpu_files(node) or probes.gpus_listed(node)
    found += ["the cloud takes this machine away"] if spot.is_leaving() else []
    return found + probes.memory_lock() + probes.shared_folder(node)


def judge_hello(node: Node, hello: dict[str, object], mark: Callable[[], str]) -> list[str]:
    """Compare clocks and shared folders with what the head said of its own."""
    found = []
    if hello.get("removed"):
        found.append("it was taken out of the cluster: cluster-setup.sh --join brings it back")
    skew = float(str(hello["skew"]))
    if abs(skew) > node.clock_seconds:
        way = "behind" if skew > 0 else "ahead of"
        found.append(f"the clock is {abs(skew):.1f} s {way} the head's")
    with contextlib.suppress(OSError):  # then the probe has said so
        if mark() != hello.get("mark"):
            found.append(f"{node.shared} is not the folder that the head has there")
    return found


def _reduce(node: Node, idle: Iterable[object], notes: dict[str, object]) -> list[str]:
    """All-reduce with an idle node, else with the head; one that works is enough."""
    failures = []
    others = [str(address) for address in idle if str(address) != node.address]
    for address in [*others[:2], node.head_address]:
        try:
            result = peer.reduce_with(address, node.peer_port)
        except (UnreachableError, MungeError) as error:
            failures.append(str(error))
            continue
        notes["peer"], notes["gbps"] = address, round(result.gbps, 3)
        if not result.is_right:
            failures.append(f"the all-reduce with {address} gave wrong numbers")
        elif result.gbps < node.minimum_gbps:
            failures.append(
                f"{result.gbps:.2f} Gbit/s with {address}, {node.minimum_gbps:g} are expected"
            )
        else:
            return []
    return failures


def run_gate(
    node: Node,
    patience: float,
    look: Callable[[Node], Verdict] = examine,
    tell: Callable[[Node, Verdict], None] | None = None,
    folder: Path = RUN,
) -> int:
    """Look until the gate opens; 1 after `patience` seconds, and systemd starts us again."""
    tell = tell or report
    until, told = time.monotonic() + patience, ""
    while True:
        verdict = look(node)
        write_verdict(verdict, folder)
        if verdict.is_open:
            _log.info("open: %s", " ".join(f"{k}={v}" for k, v in verdict.notes.items()))
            write_options(node, folder)
            tell(node, verdict)
            _start_slurmd()
            return 0
        if verdict.reason != told:
            _log.error("closed: %s", "; ".join(verdict.problems))
            told = verdict.reason
            tell(node, verdict)
        if time.monotonic() >= until:
            return 1
        time.sleep(_PAUSE_SECONDS)


def write_verdict(verdict: Verdict, folder: Path) -> None:
    words = {"open": verdict.is_open, "problems": verdict.problems, **verdict.notes}
    _write(folder / "gate.json", json.dumps(words, indent=1) + "\n")


def write_options(node: Node, folder: Path) -> None:
    options = slurmd_options(node, memory_mib(Path("/proc/meminfo").read_text()))
    _write(folder / "slurmd.env", environment_file(options))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _start_slurmd() -> None:
    """At boot slurmd is asked for already; after a long fault its start has been given up."""
    if run("systemctl", "is-enabled", "--quiet", "slurmd.service").code == 0:
        run("systemctl", "start", "--no-block", "slurmd.service")


def environment_file(options: list[str]) -> str:
    """Return slurmd's options as a line that systemd splits again as we meant it."""
    words = shlex.join(options).replace("\\", "\\\\").replace('"', '\\"')
    return f'SLURMD_OPTIONS="{words}"\n'


def report(node: Node, verdict: Verdict) -> None:
    """Let the head drain or return the node; before slurmd has run we have no slurm.conf."""
    try:
        peer.ask(node.head_address, node.peer_port, "gate", name=node.name,
                 reason="" if verdict.is_open else verdict.reason)  # fmt: skip
    except NodeError as error:
        _log.warning("the head could not be told: %s", error)
