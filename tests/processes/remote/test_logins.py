"""Logins: which keys are tried, in which order, and what is said when none opens."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from dto.errors import ConfigError
from dto.remote import keys
from dto.remote.errors import AuthenticationRefused, KeyUnusable
from dto.remote.ssh import SshTarget, connect
from tests.processes.remote.sshd import Sshd, agent, make_key, serving

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]


def _logs_in(target: SshTarget) -> bool:
    with connect(target) as host:
        return host.run(["true"]).is_ok


@pytest.fixture
def config(server: Sshd) -> Path:
    """The user's ssh folder, where `lab` is an alias of the server."""
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text(
        "Host lab\n"
        "  HostName 127.0.0.1\n"
        f"  Port {server.port}\n"
        f"  User {server.user}\n"
        f"  IdentityFile {server.key}\n"
        f"  UserKnownHostsFile {server.known_hosts()}\n"
    )
    return folder / "config"


def test_a_wrong_key_is_refused_and_named(server: Sshd, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    with pytest.raises(AuthenticationRefused) as caught:
        connect(server.target(key=wrong))
    assert caught.value.tried == (str(wrong),)
    assert f"refused the login of {server.user} (tried {wrong})" in str(caught.value)
    assert "authorized_keys" in str(caught.value) and "\n" not in str(caught.value)


def test_a_user_without_any_key_is_told_so(server: Sshd) -> None:
    with pytest.raises(AuthenticationRefused, match="there was no key to try.*ssh-add"):
        connect(server.target(key=None))


def test_a_missing_key_file_is_said_before_anything_is_dialled(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match=r"the ssh key .*/none does not exist: check the path"):
        connect(SshTarget("127.0.0.1", port=1, key=tmp_path / "none"))


def test_a_key_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="cannot be read: Is a directory"):
        connect(SshTarget("127.0.0.1", port=1, key=tmp_path))


def test_a_public_key_is_not_taken_for_a_private_one(server: Sshd) -> None:
    with pytest.raises(KeyUnusable, match="is a public key: give the private one, without .pub"):
        connect(server.target(key=f"{server.key}.pub"))


def test_a_file_that_is_no_key_says_so(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    with pytest.raises(KeyUnusable, match="is no private key"):
        connect(server.target(key=tmp_path / "notes"))


def test_a_damaged_key_says_so(server: Sshd, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    lines = server.key.read_text().splitlines()
    damaged.touch(0o600)
    damaged.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    with pytest.raises(KeyUnusable, match="is damaged"):
        connect(server.target(key=damaged))


def test_a_key_that_others_can_read_is_refused_as_ssh_does(server: Sshd, tmp_path: Path) -> None:
    shutil.copy(server.key, tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(KeyUnusable, match="can be read by others: chmod 600"):
        connect(server.target(key=tmp_path / "open"))


@pytest.mark.parametrize("options", [(), ("-t", "rsa", "-m", "PEM"), ("-t", "ecdsa", "-m", "PEM")])
def test_a_key_with_a_passphrase_goes_to_the_agent_first(
    server: Sshd, tmp_path: Path, options: tuple[str, ...]
) -> None:
    locked = make_key(tmp_path / "locked", *options, passphrase="secret")
    with pytest.raises(KeyUnusable) as caught:
        connect(server.target(key=locked))
    remedy = f"give it to the agent first, with ssh-add {locked}"
    assert str(caught.value) == f"the ssh key {locked} has a passphrase: {remedy}"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_every_usual_kind_of_key_opens_from_a_file_and_from_the_agent(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(tmp_path / "key", "-t", kind)
    with serving(tmp_path / "sshd", key=key) as server:
        assert _logs_in(server.target())
        with agent(key) as socket:
            monkeypatch.setenv("SSH_AUTH_SOCK", socket)
            key.unlink()
            assert _logs_in(server.target(key=None))


def test_the_agent_is_asked_before_the_key_that_was_given(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, worse = make_key(tmp_path / "wrong"), make_key(tmp_path / "worse")
    with agent(wrong) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        with pytest.raises(AuthenticationRefused) as caught:
            connect(server.target(key=worse))
        assert caught.value.tried == ("wrong of the agent", str(worse))
        assert _logs_in(server.target())


def test_a_server_that_hangs_up_after_a_few_keys_is_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [make_key(tmp_path / f"wrong{n}") for n in range(4)]
    with serving(tmp_path / "sshd", "MaxAuthTries 2") as server, agent(*wrong) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        assert _logs_in(server.target())


def test_an_agent_that_is_gone_is_passed_over(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    assert _logs_in(server.target())


def test_an_agent_that_never_answers_is_passed_over(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "agent")
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    monkeypatch.setattr(keys, "_AGENT_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert _logs_in(server.target())


def test_identities_only_leaves_out_the_agents_other_keys(
    server: Sshd, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(f"{config.read_text()}  IdentitiesOnly yes\n")
    wrong, other = make_key(tmp_path / "wrong"), make_key(tmp_path / "other")
    with agent(wrong, other) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        config.write_text(config.read_text().replace(str(server.key), str(other)))
        with pytest.raises(AuthenticationRefused) as caught:
            connect(SshTarget("lab"))
        assert caught.value.tried == ("other of the agent",)


def test_a_password_is_never_offered(tmp_path: Path) -> None:
    settings = ("PubkeyAuthentication no", "PasswordAuthentication yes")
    with serving(tmp_path / "sshd", *settings) as server:
        with pytest.raises(AuthenticationRefused, match="it takes no keys"):
            connect(server.target())
        assert "Failed password" not in server.log


def test_an_alias_of_the_config_is_followed(config: Path) -> None:
    with connect(SshTarget("lab")) as host:
        assert host.name == "lab"
        assert host.run(["echo", "hi"]).out == "hi\n"


def test_what_is_given_beats_the_config(server: Sshd, config: Path, tmp_path: Path) -> None:
    text = config.read_text()
    for wrong in (f"Port {server.port}", f"User {server.user}"):
        text = text.replace(wrong, f"{wrong.split()[0]} 9")
    config.write_text(text)
    assert _logs_in(SshTarget("lab", user=server.user, port=server.port))


def test_included_files_are_followed_and_end_where_they_end(server: Sshd, config: Path) -> None:
    (config.parent / "more.conf").write_text(config.read_text().replace("Host lab", "Host=inner"))
    config.write_text("Host lab\n  HostName 127.0.0.1\nInclude more.*\n  User nobody\n")
    assert _logs_in(SshTarget("inner"))
    with pytest.raises(AuthenticationRefused, match="login of nobody"):
        connect(server.target(address="lab", user=None))


def test_includes_in_a_circle_are_refused(config: Path) -> None:
    config.write_text("Include config\n")
    with pytest.raises(ConfigError, match="lead in a circle"):
        connect(SshTarget("lab"))


def test_a_config_that_cannot_be_followed_is_refused(config: Path) -> None:
    for text, problem in (
        ("Host lab\n  Port many\n", "a port of many"),
        ("Host lab\n  ProxyCommand nc %h %p\n", "use ProxyJump"),
        ("Match nonsense\n", "cannot be followed"),
    ):
        config.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            connect(SshTarget("lab"))


def test_the_usual_key_files_are_tried_without_being_named(server: Sshd) -> None:
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    shutil.copy(server.key, folder / "id_ed25519")
    assert _logs_in(server.target(key=None))


def test_a_usual_key_that_is_no_use_is_mentioned_at_the_end(server: Sshd, tmp_path: Path) -> None:
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    locked = make_key(folder / "id_ed25519", passphrase="secret")
    assert _logs_in(server.target())
    with pytest.raises(AuthenticationRefused, match=f"{locked} has a passphrase"):
        connect(server.target(key=None))


def test_the_key_of_an_unlocked_agent_stands_in_for_its_locked_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(tmp_path / "key")
    with agent(key) as socket, serving(tmp_path / "sshd", key=key) as server:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        words = ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(key)]
        subprocess.run(words, check=True, timeout=20, stdout=subprocess.DEVNULL)
        assert _logs_in(server.target())
