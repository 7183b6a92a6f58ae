"""Looking at hosts before anything changes: who they are, and every reason to stop."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dto.cluster import preflight, secrets
from dto.cluster.asked import Asked, check, even_gpus
from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.inventory_hosts import Host as Member
from dto.cluster.preflight import Look, Probe
from dto.cluster.session import Session
from dto.cluster.state import ClusterState
from dto.errors import ClusterError, PreflightError, UsageError
from dto.remote.errors import HostKeyChanged, UnknownHostKey, Unreachable
from dto.remote.host import Host
from dto.remote.local import LocalHost
from tests.helpers import cannot

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIAyHj0/VrkJhlBzIPTRrrkNrurhXnWFbcmIFXA2Kv8ap"


@dataclass
class Person:
    """Somebody at a terminal; `answer` None is nobody."""

    answer: bool | None = None
    asked: list[str] = field(default_factory=list)
    out: Any = field(default_factory=io.StringIO)

    def say(self, text: str) -> None:
        self.out.write(text)

    def warn(self, text: str) -> None:
        self.out.write(text)

    def confirm(self, question: str) -> bool | None:
        self.asked.append(question)
        return self.answer


def record() -> DtoCluster:
    return parse_record(
        {
            "name": "lab",
            "head": {"name": "head", "address": "10.0.0.1"},
            "nodes": [{"name": "n1", "address": "10.0.0.2"}],
        },
        "test",
    )


def seen(name: str, **more: Any) -> Probe:
    return Probe(hostname=name, boot_id=f"boot-{name}", **{"is_root": True, **more})


def test_this_machine_says_who_it_is() -> None:
    found = preflight.probe(LocalHost("here"))
    assert found.hostname == os.uname().nodename.partition(".")[0]
    assert found.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert found.is_root or found.sudo_words


def test_a_head_that_is_away_ends_it_and_a_node_does_not() -> None:
    away = Look(probes={"head": seen("head")}, unreachable={"n1": "no route"})
    preflight.judge(record(), away)
    with pytest.raises(ClusterError, match="the head: no route; nothing was changed"):
        preflight.judge(record(), Look(unreachable={"head": "no route"}))


def test_a_host_without_sudo_is_refused_by_name() -> None:
    found = Look({"head": seen("head"), "n1": seen("n1", is_root=False, user="me")})
    with pytest.raises(PreflightError, match="n1: me may not become root") as caught:
        preflight.judge(record(), found)
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_one_machine_named_twice_is_refused() -> None:
    with pytest.raises(PreflightError, match="head and n1 are one machine"):
        preflight.judge(record(), Look({"head": seen("same"), "n1": seen("same")}))


def test_two_hosts_that_call_themselves_the_same_are_refused() -> None:
    found = Look({"head": seen("debian"), "n1": seen("Debian")})
    with pytest.raises(PreflightError, match="both call themselves 'Debian'"):
        preflight.names_by_address(record().members, found)
    found = Look({"head": seen("a"), "n1": seen("b")})
    names = preflight.names_by_address(record().members, found)
    assert names == {"10.0.0.1": "a", "10.0.0.2": "b"}


class Fleet(Session):
    """A session whose ssh fails as told, and else leads to this machine."""

    trouble: dict[str, Callable[[Member, DtoCluster], Exception | None]] = {}

    def connect(self, member: Member, timeout: float = 15) -> Host:
        problem = self.trouble.get(member.name, lambda *_: None)(member, self.record)
        if problem:
            raise problem
        return LocalHost(member.name)


def unknown(member: Member, known: DtoCluster) -> Exception | None:
    if member.address in known.host_keys:
        return None
    return UnknownHostKey(member.address, 22, "ssh-ed25519", KEY, "SHA256:abc")


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    # all hosts are this machine here, which would itself be a reason to stop
    monkeypatch.setattr(preflight, "_refuse_same", lambda probes: None)

    def make(person: Person, **trouble: Any) -> Fleet:
        session = Fleet(ClusterState("lab", tmp_path / "lab"), record(), person)
        monkeypatch.setattr(Fleet, "trouble", trouble)
        return session

    return make


def test_an_unknown_host_key_is_shown_and_confirmed_once(fleet: Any) -> None:
    person = Person(answer=True)
    session, found = fleet(person, head=unknown, n1=unknown).look(accepts=False)
    (question,) = person.asked
    assert "head (10.0.0.1): ssh-ed25519 SHA256:abc" in question and "n1" in question
    assert set(found.probes) == {"head", "n1"}
    assert f"ssh-ed25519 {KEY}" in session.state.known_hosts.read_text()


@pytest.mark.parametrize("answer", [None, False])
def test_an_unknown_host_key_that_nobody_confirms_ends_it(fleet: Any, answer: bool | None) -> None:
    with pytest.raises(ClusterError, match="--accept-new-host-keys") as caught:
        fleet(Person(answer), n1=unknown).look(accepts=False)
    assert "\n" not in str(caught.value)


def test_new_host_keys_are_taken_where_that_was_asked_for(fleet: Any) -> None:
    person = Person()
    session, _ = fleet(person, n1=unknown).look(accepts=True)
    assert not person.asked and "10.0.0.2" in session.record.host_keys


def test_a_changed_host_key_is_never_asked_about(fleet: Any) -> None:
    def changed(*_: Any) -> Exception:
        return HostKeyChanged("10.0.0.2", 22, "SHA256:abc", None, 0, "put the new key in its place")

    person = Person(answer=True)
    with pytest.raises(HostKeyChanged, match="another host key"):
        fleet(person, n1=changed).look(accepts=True)
    assert not person.asked


def test_a_node_that_is_away_is_left_out(fleet: Any) -> None:
    _, found = fleet(Person(), n1=lambda *_: Unreachable("10.0.0.2", 22, "no route")).look(
        accepts=False
    )
    assert list(found.unreachable) == ["n1"] and list(found.probes) == ["head"]


def test_gpus_are_spread_evenly_or_not_at_all() -> None:
    asked = Asked(master_ip="10.0.0.1", worker_ips="10.0.0.2, 10.0.0.3", total_gpus=16)
    assert even_gpus(asked) == 8
    with pytest.raises(UsageError, match="does not come out even"):
        check(Asked(master_ip="10.0.0.1", worker_ips="10.0.0.2 10.0.0.3", total_gpus=5))


@pytest.fixture
def key(tmp_path: Path) -> str:
    if not shutil.which("ssh-keygen") or not shutil.which("ssh-agent"):
        cannot("needs the openssh client")
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", tmp_path / "key"]
    subprocess.run(command, check=True, timeout=60)
    text = (tmp_path / "key").read_text()
    (tmp_path / "key").unlink()
    return text


def test_a_secret_key_lives_in_an_agent_alone(key: str, tmp_path: Path) -> None:
    with secrets.agent_with(key) as socket:
        env = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        listed = subprocess.run(
            ["ssh-add", "-L"], env=env, text=True, capture_output=True, timeout=60
        )
        public = (tmp_path / "key.pub").read_text().split()[1]
        assert public in listed.stdout
        assert [path.name for path in socket.parent.iterdir()] == ["agent"]
    assert not socket.parent.exists()


def test_a_secret_is_a_key_or_json_with_one(key: str) -> None:
    import json

    assert secrets.key_in(key, "x") == key
    assert secrets.key_in(json.dumps({"user": "me", "key": key}), "x") == key
    for text in ("", "hello", "{", json.dumps({"a": key, "b": key})):
        with pytest.raises(UsageError, match="private key: store one"):
            secrets.key_in(text, "x")


def test_a_secret_that_is_no_key_is_one_line() -> None:
    bad = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n"
    with pytest.raises(UsageError, match="cannot be used") as caught, secrets.agent_with(bad):
        pass
    assert "\n" not in str(caught.value)
