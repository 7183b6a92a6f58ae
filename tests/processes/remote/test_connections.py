"""Ways to a host, and what is said where there is none."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from dto.errors import ConfigError, UsageError
from dto.remote import wire
from dto.remote.errors import HostKeyChanged, RemoteError, UnknownHostKey, Unreachable
from dto.remote.host_keys import append_known_host, fetch_host_key
from dto.remote.ssh import SshTarget, connect
from dto.remote.target import parse_jump
from tests.processes.remote.sshd import Sshd, serving

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def bastion(tmp_path: Path, server: Sshd) -> Iterator[Sshd]:
    """A second server, whose file vouches for the first one, too."""
    with serving(tmp_path / "bastion", key=server.key) as sshd:
        append_known_host(sshd.known_hosts(), "127.0.0.1", server.port, server.host_key)
        yield sshd


def _through(server: Sshd, bastion: Sshd) -> SshTarget:
    jump = f"{bastion.user}@127.0.0.1:{bastion.port}"
    return server.target(bastion=jump, known_hosts=(bastion.known_hosts(),))


def test_a_closed_port_is_said_at_once(closed: int) -> None:
    with pytest.raises(Unreachable, match="connection refused: does sshd run there") as caught:
        connect(SshTarget("127.0.0.1", port=closed))
    assert (caught.value.address, caught.value.port) == ("127.0.0.1", closed)
    assert str(caught.value).startswith(f"cannot reach [127.0.0.1]:{closed}: ")
    assert caught.value.exit_code == 3


def test_a_host_that_never_answers_is_given_up(silent: int) -> None:
    with pytest.raises(Unreachable, match="no answer within 0.5 s: is the host up"):
        connect(SshTarget("127.0.0.1", port=silent), timeout=0.5)
    with pytest.raises(Unreachable, match="no answer within 0.5 s"):
        fetch_host_key("127.0.0.1", silent, timeout=0.5)


def test_a_name_that_nobody_knows_is_said() -> None:
    with pytest.raises(Unreachable, match="its name is not known here"):
        connect(SshTarget("no-such-host.invalid"))


def test_a_server_of_something_else_is_no_ssh_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="what answers is no ssh server"):
            connect(SshTarget("127.0.0.1", port=listener.getsockname()[1]))
        thread.join()


def test_a_bastion_carries_the_connection(server: Sshd, bastion: Sshd) -> None:
    with connect(_through(server, bastion)) as host:
        assert host.run(["echo", "inside"]).out == "inside\n"
        assert bastion.sessions()
        assert "Accepted publickey" in bastion.log
        big = host.run(["head", "-c", str(4 << 20), "/dev/zero"])
        assert len(big.out) == 4 << 20
    with connect(bastion.target()) as via:
        assert fetch_host_key("127.0.0.1", server.port, via=via) == server.host_key


def test_proxy_jump_of_the_config_is_followed(server: Sshd, bastion: Sshd) -> None:
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text(
        f"Host head\n  Port {server.port}\n  ProxyJump door\n"
        f"Host door\n  Port {bastion.port}\n"
        f"Host *\n  HostName 127.0.0.1\n  User {server.user}\n  IdentityFile {server.key}\n"
        f"  UserKnownHostsFile {bastion.known_hosts()}\n"
    )
    with connect(SshTarget("head")) as host:
        assert host.run(["true"]).is_ok
        assert bastion.sessions()
    assert "Accepted publickey" in bastion.log


def test_a_bastion_behind_a_bastion_is_reached(server: Sshd, bastion: Sshd) -> None:
    door = f"{bastion.user}@127.0.0.1:{bastion.port}"
    target = server.target(bastion=f"{door},{door}", known_hosts=(bastion.known_hosts(),))
    with connect(target) as host:
        assert host.run(["true"]).is_ok
    assert bastion.log.count("Accepted publickey") == 2


def test_a_bastion_must_be_known_too(server: Sshd, bastion: Sshd) -> None:
    jump = f"{bastion.user}@127.0.0.1:{bastion.port}"
    with pytest.raises(UnknownHostKey) as unknown:
        connect(server.target(bastion=jump))
    assert unknown.value.port == bastion.port
    append_known_host(server.known_hosts(), "127.0.0.1", bastion.port, server.host_key)
    with pytest.raises(HostKeyChanged):
        connect(server.target(bastion=jump))
    given = bastion.target(host_keys=(str(bastion.host_key),))
    with connect(server.target(bastion=given)) as host:
        assert host.run(["true"]).is_ok


def test_a_host_behind_a_bastion_must_be_known_too(server: Sshd, bastion: Sshd) -> None:
    door = f"{bastion.user}@127.0.0.1:{bastion.port}"
    only_bastion = bastion.known_hosts()
    only_bastion.write_text(only_bastion.read_text().splitlines()[0] + "\n")
    with pytest.raises(UnknownHostKey) as unknown:
        connect(server.target(bastion=door, known_hosts=(only_bastion,)))
    assert unknown.value.port == server.port


def test_a_bastion_that_cannot_reach_the_host_is_named(bastion: Sshd, closed: int) -> None:
    target = SshTarget("127.0.0.1", port=closed, key=bastion.key, bastion=bastion.target())
    with pytest.raises(Unreachable, match="127.0.0.1 cannot reach it for us") as caught:
        connect(target)
    assert caught.value.port == closed


def test_a_host_that_is_silent_behind_a_bastion_is_given_up(bastion: Sshd, silent: int) -> None:
    target = SshTarget("127.0.0.1", port=silent, key=bastion.key, bastion=bastion.target())
    with pytest.raises(Unreachable, match="no answer within 4 s"):
        connect(target, timeout=4)


def test_bastions_in_a_circle_are_refused() -> None:
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text("Host *\n  ProxyJump door\n")
    with pytest.raises(ConfigError, match="through ever more bastions"):
        connect(SshTarget("head"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("door", ("door", None, None, None)),
        ("me@door:2222", ("door", "me", 2222, None)),
        ("me@[::1]:2222", ("::1", "me", 2222, None)),
        ("a,me@b", ("b", "me", None, "a")),
        ("ssh://door:22", ("door", None, 22, None)),
    ],
)
def test_a_bastion_is_read_as_ssh_reads_it(text: str, expected: tuple[object, ...]) -> None:
    jump = parse_jump(text, SshTarget("head", user="root", key="/key"))
    assert (jump.address, jump.user, jump.port, jump.bastion) == expected
    assert jump.key == "/key"


@pytest.mark.parametrize("text", ["", "me@", "door:many", "door:99999"])
def test_a_bastion_that_names_no_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_jump(text, SshTarget("head"))


def test_a_connection_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wire.KEEP_ALIVE_SECONDS == 15
    monkeypatch.setattr(wire, "KEEP_ALIVE_SECONDS", 0.2)
    with serving(tmp_path / "sshd", "LogLevel DEBUG") as server:
        with connect(server.target()) as host:
            assert host.run(["sleep", "1"]).is_ok
        assert "rtype keepalive@" in server.log


def test_closing_twice_is_fine_and_ends_the_session(tmp_path: Path) -> None:
    with serving(tmp_path / "sshd") as server:
        host = connect(server.target())
        sessions = server.sessions()
        assert sessions
        host.close()
        host.close()
        for process in sessions:
            process.wait(10)
        with pytest.raises(RemoteError):
            host.run(["true"])


def test_nothing_but_our_own_words_reaches_the_terminal(silent: int) -> None:
    program = (
        "import logging; logging.basicConfig(level=logging.DEBUG)\n"
        "from dto.remote.ssh import SshTarget, connect\n"
        "from dto.remote.errors import Unreachable\n"
        f"try: connect(SshTarget('127.0.0.1', port={silent}), timeout=0.5)\n"
        "except Unreachable as error: print(error)\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, check=True, timeout=50, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith(f"cannot reach [127.0.0.1]:{silent}: no answer within 0.5 s")


@pytest.mark.parametrize("module", ["dto.cli.main", "dto.remote.target", "dto.remote.local"])
def test_paramiko_is_loaded_only_to_connect(module: str) -> None:
    program = f"import sys, {module}; sys.exit('paramiko' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
