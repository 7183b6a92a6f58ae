"""A login key that is kept in AWS Secrets Manager: it opens the hosts, and nothing of it stays."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from dto.cluster.inventory import parse_record
from dto.cluster.state import cluster_state
from tests.cloud.moto import REGION, environment, moto_server
from tests.helpers import cannot, dto, start_dto, wait_for
from tests.processes.remote.sshd import make_key, serving

_ASKED = ("--use-secrets-manager", "--region", REGION, "--secret-name")


class Place:
    """An operator without a key, a head that wants one, and an AWS that has it."""

    def __init__(self, home: Path, aws: dict[str, str]) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.temporary = home / "tmp"
        self.temporary.mkdir(parents=True)
        self.env = {**kept, **aws, "HOME": str(home), "TMPDIR": str(self.temporary)}
        self.home = home

    def agents(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or []
            if process.info["name"] == "ssh-agent" and str(self.temporary) in " ".join(words):
                found.append(process)
        return found

    def knows(self, address: str, port: int, user: str, host_key: str) -> None:
        """Keep a cluster's record, as a setup would have."""
        record: dict[str, Any] = {
            "name": "lab", "head": {"name": "lab-head", "address": address},
            "ssh": {"user": user, "port": port}, "host_keys": {address: [host_key]},
        }  # fmt: skip
        cluster_state("lab", {"HOME": str(self.home)}).save(parse_record(record, "test"))

    def written(self) -> str:
        files = [path for path in self.home.rglob("*") if path.is_file() and not path.is_socket()]
        return "".join(path.read_text(errors="replace") for path in files)


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, str]]:
    if not shutil.which("ssh-agent"):
        cannot("needs ssh-agent (Debian: openssh-client)")
    with moto_server() as url:
        yield environment(url)


@pytest.fixture
def place(tmp_path: Path, aws: dict[str, str]) -> Place:
    return Place(tmp_path / "home", aws)


def secrets_of(aws: dict[str, str]) -> Any:
    return boto3.client(
        "secretsmanager", region_name=REGION, endpoint_url=aws["AWS_ENDPOINT_URL"],
        aws_access_key_id="testing", aws_secret_access_key="testing",
    )  # fmt: skip


def test_a_key_out_of_secrets_manager_opens_the_head(
    tmp_path: Path, place: Place, aws: dict[str, str]
) -> None:
    with serving(tmp_path / "sshd") as server:
        secrets_of(aws).create_secret(Name="opens", SecretString=server.key.read_text())
        server.key.unlink()
        place.knows(server.address, server.port, server.user, str(server.host_key))
        shut = dto("cluster", "status", env=place.env)
        opened = dto("cluster", "status", *_ASKED, "opens", env=place.env)
        assert server.log.count("Accepted publickey") == 1, server.log
    assert shut.returncode == 3 and "key" in shut.stderr, shut.stderr
    # It is in, and asks; whether a controller answers there is the machine's affair.
    assert "scontrol" in opened.stderr or "no SLURM" in opened.stderr or not opened.returncode
    assert place.agents() == [] and "PRIVATE KEY" not in place.written()
    assert list(place.temporary.iterdir()) == []


def test_a_secret_that_is_not_there_is_one_line(place: Place) -> None:
    place.knows("127.0.0.1", 9, "nobody", _SOME_KEY)
    done = dto("cluster", "status", *_ASKED, "absent", env=place.env)
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert "secret 'absent' cannot be read" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_key_does_not_outlive_a_command_that_is_ended(
    tmp_path: Path, place: Place, aws: dict[str, str], number: signal.Signals
) -> None:
    key = make_key(tmp_path / "key")
    secrets_of(aws).create_secret(Name=f"ended-{number}", SecretString=key.read_text())
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes a connection, says nothing
        place.knows("127.0.0.1", silent.getsockname()[1], "nobody", _SOME_KEY)
        log = tmp_path / "log"
        words = ("cluster", "status", *_ASKED, f"ended-{number}")
        process = start_dto(*words, cwd=tmp_path, log=log, env=place.env)
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            assert len(place.agents()) == 1
            process.send_signal(number)
            process.wait(30)
            wait_for(lambda: not place.agents(), 30)
    assert "PRIVATE KEY" not in place.written() + log.read_text()


_SOME_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
