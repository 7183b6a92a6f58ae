"""Host keys: what is one, and the file in which ssh looks them up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dto.cluster.keys import fingerprint, forget_hosts, known_hosts, write_known_hosts
from tests.unit.cluster_records import needs, public_key, record, small


def keygen(*arguments: str) -> str:
    command = ["ssh-keygen", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


@needs("ssh-keygen")
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_real_keys_are_taken_and_shown_as_ssh_shows_them(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    keygen("-q", "-t", kind, "-N", "", "-C", "a comment", "-f", str(path))
    line = path.with_suffix(".pub").read_text()
    found = record(
        host_keys={"10.0.0.2": [line.strip()]},
        users=[{"name": "ada", "uid": 2001, "keys": [line.strip()]}],
    )
    shown = keygen("-l", "-f", str(path.with_suffix(".pub"))).split()[1]
    assert fingerprint(found.host_keys["10.0.0.2"][0]) == shown == fingerprint(line)
    write_known_hosts(tmp_path / "known_hosts", found)
    assert "10.0.0.2" in keygen("-F", "10.0.0.2", "-f", str(tmp_path / "known_hosts"))


def test_a_key_under_one_address_counts_for_all_of_the_host() -> None:
    raw = small(host_keys={"198.51.100.7": [public_key(1)], "gate": [public_key(2)]})
    raw["head"]["public_address"] = "198.51.100.7"
    found = record(**raw)
    assert known_hosts(found).splitlines() == [
        f"10.0.0.1 {public_key(1)}",
        f"198.51.100.7 {public_key(1)}",
        f"gate {public_key(2)}",
    ]


def test_another_port_is_written_as_ssh_looks_it_up() -> None:
    found = record(
        ssh={"port": 2222, "bastion": "me@gate:2200"},
        host_keys={"10.0.0.2": [public_key(1)], "gate": [public_key(2)]},
    )
    assert f"[10.0.0.2]:2222 {public_key(1)}" in known_hosts(found).splitlines()
    assert f"[gate]:2200 {public_key(2)}" in known_hosts(found).splitlines()


def test_confirmed_keys_stay_unless_the_record_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    confirmed = (
        f"10.0.0.2,n1 {public_key(1)}\n10.0.0.3 {public_key(2)} comment\n# a\n|1|h {'x'} y\n"
    )
    path.write_text(confirmed)
    write_known_hosts(path, record(host_keys={"10.0.0.3": [public_key(3)]}))
    assert path.read_text().splitlines() == [
        f"10.0.0.2 {public_key(1)}",
        f"10.0.0.3 {public_key(3)}",
        f"n1 {public_key(1)}",
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_ino
    write_known_hosts(path, record(host_keys={"10.0.0.3": [public_key(3)]}))
    assert path.stat().st_ino == before


def test_a_host_that_left_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    forget_hosts(path, ["10.0.0.2"], 22)
    assert not path.exists()
    write_known_hosts(
        path, record(host_keys={"10.0.0.2": [public_key(1)], "10.0.0.3": [public_key(2)]})
    )
    forget_hosts(path, ["10.0.0.2"], 22)
    assert path.read_text() == f"10.0.0.3 {public_key(2)}\n"
