"""The servers that most of these tests log in to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dto.remote.host import Host
from dto.remote.local import LocalHost
from dto.remote.ssh import SshHost, connect
from tests.processes.remote.sshd import Sshd, serving


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches for the keys of whoever runs it."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that all tests share: none may kill it, or its sessions."""
    with serving(tmp_path_factory.mktemp("sshd") / "server") as sshd:
        yield sshd


@pytest.fixture
def ssh(server: Sshd) -> Iterator[SshHost]:
    """A login to that server."""
    with connect(server.target()) as host:
        yield host


@pytest.fixture(params=["here", "over ssh"])
def host(request: pytest.FixtureRequest) -> Host:
    """This machine, then a machine over ssh: they behave alike."""
    if request.param == "here":
        return LocalHost()
    over_ssh: Host = request.getfixturevalue("ssh")
    return over_ssh
