"""Hosts that do not answer a setup: at rest by the guard's will, or left out."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dto.cluster import provision
from dto.cluster.provision import resting_of
from dto.cluster.session import Session
from dto.cluster.state import ClusterState
from dto.cluster.status import NodeStatus
from dto.remote.local import LocalHost
from tests.unit.cluster_records import record


@dataclass
class Reader:
    """Somebody who reads along."""

    out: Any = field(default_factory=io.StringIO)
    confirm = None

    def say(self, text: str) -> None:
        self.out.write(text + "\n")

    warn = say


class Head(LocalHost):
    """This machine as a head whose Python says what a test wants it to."""

    def pipe(
        self, argv: Any, source: BinaryIO | None, sink: BinaryIO, *, timeout: float,
        sudo: bool = False,
    ) -> tuple[int, bytes]:  # fmt: skip
        assert sudo, "only root reads the journal"
        return super().pipe(argv, source, sink, timeout=timeout)


class Near(Session):
    def head(self) -> Head:
        return Head()


def resting(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int = 0
) -> tuple[dict[str, str], str]:
    """What the silent hosts lab-001 and lab-002 come to, and what is said of them."""
    (folder / "answer").write_text(answer)
    program = folder / "python3"
    program.write_text(f"#!/bin/sh\ncat {folder}/answer\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    reader = Reader()
    session = Near(ClusterState("lab", folder), record(), reader)
    return resting_of(session, ["lab-001", "lab-002"]), reader.out.getvalue()


def test_what_the_guard_switched_off_is_said_in_a_line_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"off": {"lab-001": "idle", "lab-009": "budget"}})
    found, said = resting(tmp_path, monkeypatch, answer)
    assert found == {"lab-001": "idle"}
    line = "lab-001 is switched off by the guard (idle); it comes back when it is needed\n"
    assert said == line
    found, said = resting(tmp_path, monkeypatch, '{"off": {"lab-002": "budget"}}')
    assert said.endswith("(budget); it comes back once there is budget\n")


@pytest.mark.parametrize(("answer", "code"), [("{}", 0), ("", 2), ("no json", 0)])
def test_without_a_guard_that_explains_it_a_silent_host_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    assert resting(tmp_path, monkeypatch, answer, code) == ({}, "")


def test_what_the_cloud_has_taken_is_said_in_a_line_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    monkeypatch.setattr(provision, "states_of", lambda session: {one.name: one for one in SEEN})
    session = Near(ClusterState("lab", tmp_path), record(provider="aws"), reader)
    silent = ["lab-001", "lab-002", "lab-003"]
    assert resting_of(session, silent) == {"lab-001": "cloud"}
    line = "lab-001 was taken by the cloud; it leaves the cluster by itself, and another machine"
    assert reader.out.getvalue() == f"{line} comes in its place\n"
    metal = Near(ClusterState("lab", tmp_path), record(), reader)
    assert resting_of(metal, silent) == {}


def _seen(name: str, state: str, reason: str) -> NodeStatus:
    return NodeStatus(name, state, "10.0.0.2", (), 1, 0, 1, 0, 0, reason)


SEEN = (
    _seen("lab-001", "DOWN+DRAIN", "dto: gone: the cloud has taken i-1"),
    _seen("lab-002", "DOWN+DRAIN", "a new fan"),
    _seen("lab-003", "DOWN*", "Not responding"),
    _seen("lab-009", "DOWN+DRAIN", "dto: spot notice: terminate"),
)
