"""Host keys: only what somebody vouches for is talked to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dto.errors import ConfigError
from dto.remote.errors import HostKeyChanged, UnknownHostKey
from dto.remote.host_keys import (
    HostKey,
    append_known_host,
    check_host_key,
    fetch_host_key,
    fingerprint,
    format_line,
    parse_key,
    parse_known_hosts,
    read_known_hosts,
)
from dto.remote.ssh import connect
from tests.processes.remote.sshd import Sshd, make_key, public, serving

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> HostKey:
    """A key that no server here holds."""
    return parse_key(public(make_key(tmp_path_factory.mktemp("keys") / "other")))


def _logs_in(server: Sshd, **changes: object) -> bool:
    with connect(server.target(**changes)) as host:
        return host.run(["true"]).is_ok


def test_an_unknown_host_key_is_refused_and_can_be_stored(server: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "folder" / "known_hosts"
    with pytest.raises(UnknownHostKey) as caught:
        connect(server.target(known_hosts=(file,)))
    error = caught.value
    assert (error.address, error.port) == ("127.0.0.1", server.port)
    assert HostKey(error.key_type, error.key) == server.host_key
    assert f"ssh-ed25519 {error.fingerprint}; compare it" in str(error)
    assert not file.exists()
    append_known_host(file, error.address, error.port, f"{error.key_type} {error.key}")
    assert file.stat().st_mode & 0o777 == 0o600
    assert _logs_in(server, known_hosts=(file,))


def test_a_changed_host_key_is_refused(server: Sshd, tmp_path: Path, other_key: HostKey) -> None:
    file = tmp_path / "known_hosts"
    line = format_line("127.0.0.1", server.port, other_key)
    file.write_text(f"# first\n{line}\n")
    with pytest.raises(HostKeyChanged) as caught:
        connect(server.target(known_hosts=(file,)))
    assert (caught.value.file, caught.value.line) == (str(file), 2)
    message = str(caught.value)
    assert f"line 2 of {file}" in message and "listening in" in message and "\n" not in message
    remedy = f"ssh-keygen -R '[127.0.0.1]:{server.port}' -f {file}"
    assert message.endswith(remedy)
    subprocess.run(remedy, shell=True, check=True, timeout=20, capture_output=True)
    with pytest.raises(UnknownHostKey):
        connect(server.target(known_hosts=(file,)))


def test_a_key_given_by_hand_is_enough(server: Sshd, tmp_path: Path, other_key: HostKey) -> None:
    absent = (tmp_path / "none",)
    assert _logs_in(server, known_hosts=absent, host_keys=(f"{server.host_key} lab",))
    with pytest.raises(HostKeyChanged, match="than the host_keys given for it"):
        connect(server.target(known_hosts=absent, host_keys=(str(other_key),)))
    with pytest.raises(ConfigError, match="is no host key"):
        connect(server.target(host_keys=("ssh-ed25519 AAAA",)))


def test_a_key_given_by_hand_beats_an_old_line(
    server: Sshd, tmp_path: Path, other_key: HostKey
) -> None:
    file = tmp_path / "known_hosts"
    append_known_host(file, "127.0.0.1", server.port, other_key)
    assert _logs_in(server, known_hosts=(file,), host_keys=(str(server.host_key),))


def test_hashed_names_are_known(server: Sshd, tmp_path: Path, other_key: HostKey) -> None:
    file = tmp_path / "known_hosts"
    append_known_host(file, "127.0.0.1", server.port, server.host_key)
    words = ["ssh-keygen", "-H", "-f", str(file)]
    subprocess.run(words, check=True, timeout=20, capture_output=True)
    assert file.read_text().startswith("|1|")
    assert _logs_in(server, known_hosts=(file,))
    hashed = format_line("127.0.0.1", server.port, other_key, is_hashed=True)
    file.write_text(f"{hashed}\n")
    with pytest.raises(HostKeyChanged):
        connect(server.target(known_hosts=(file,)))


def test_ssh_keygen_finds_what_was_stored(tmp_path: Path, other_key: HostKey) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("# a last line without its end")
    append_known_host(file, "node1", 22, other_key)
    append_known_host(file, "10.0.0.5", 2222, other_key)
    hashed = format_line("node2", 22, other_key, is_hashed=True)
    file.write_text(f"{file.read_text()}{hashed}\n")
    for name in ("node1", "[10.0.0.5]:2222", "node2"):
        words = ["ssh-keygen", "-F", name, "-f", str(file)]
        found = subprocess.run(words, check=True, timeout=20, capture_output=True, text=True)
        assert other_key.base64 in found.stdout


def test_a_host_known_at_the_usual_port_is_known_at_another(server: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    append_known_host(file, "127.0.0.1", 22, server.host_key)
    assert _logs_in(server, known_hosts=(file,))


def test_an_alias_is_looked_up_instead_of_the_address(
    server: Sshd, tmp_path: Path, other_key: HostKey
) -> None:
    file = tmp_path / "known_hosts"
    append_known_host(file, "head", 22, server.host_key)
    append_known_host(file, "127.0.0.1", server.port, other_key)
    assert _logs_in(server, known_hosts=(file,), host_key_alias="head")


def test_a_revoked_key_is_refused_wherever_else_it_stands(server: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    append_known_host(file, "127.0.0.1", server.port, server.host_key)
    file.write_text(f"{file.read_text()}@revoked * {server.host_key}\n")
    with pytest.raises(HostKeyChanged, match="revokes this key"):
        connect(server.target(known_hosts=(file,)))


def test_the_kind_of_key_that_is_known_is_asked_for(tmp_path: Path) -> None:
    rsa = make_key(tmp_path / "rsa", "-t", "rsa", "-b", "2048")
    with serving(tmp_path / "sshd", f"HostKey {rsa}") as server:
        file = tmp_path / "known_hosts"
        append_known_host(file, "127.0.0.1", server.port, parse_key(public(rsa)))
        assert _logs_in(server, known_hosts=(file,))


def test_a_fetched_key_is_the_servers_own(server: Sshd) -> None:
    assert fetch_host_key("127.0.0.1", server.port) == server.host_key


def test_a_fingerprint_is_what_ssh_keygen_shows(tmp_path: Path) -> None:
    for kind in ("ed25519", "ecdsa", "rsa"):
        path = make_key(tmp_path / kind, "-t", kind)
        words = ["ssh-keygen", "-l", "-f", str(path)]
        shown = subprocess.run(words, check=True, timeout=20, capture_output=True, text=True)
        assert fingerprint(public(path)) == shown.stdout.split()[1]


def test_patterns_match_as_openssh_has_them(other_key: HostKey) -> None:
    text = f"*.lab,!bad.lab,10.0.?.1,[h]:2222 {other_key} comment"
    known = parse_known_hosts(text)[0]
    names = ["a.lab", "A.LAB", "bad.lab", "10.0.3.1", "10.0.33.1", "[h]:2222", "h"]
    assert [known.is_for(name) for name in names] == [True, True, False, True, False, True, False]


def test_lines_that_cannot_be_used_are_passed_over(other_key: HostKey) -> None:
    bad = "# note\n\nhost\nhost ssh-ed25519 !!!\n"
    text = f"{bad}@cert-authority * {other_key}\nhost {other_key}\n"
    assert [(one.names, one.line) for one in parse_known_hosts(text)] == [(("host",), 6)]
    assert read_known_hosts([Path("/nonexistent/known_hosts")]) == []


def test_another_kind_of_key_than_the_known_ones_is_a_change(
    tmp_path: Path, other_key: HostKey
) -> None:
    rsa = parse_key(public(make_key(tmp_path / "rsa", "-t", "rsa", "-b", "2048")))
    known = parse_known_hosts(f"host {rsa}", "file")
    with pytest.raises(HostKeyChanged):
        check_host_key(known, "host", 22, other_key)
