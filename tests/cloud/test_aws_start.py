"""What a host on AWS does when it first starts: publish its ssh keys, let the cluster's head in."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.cloud.aws_account import Account
from tests.cloud.moto import REGION, moto_server
from tests.helpers import REPOSITORY

HELPER = REPOSITORY / "terraform/modules/horovod-hpc/files/dto-aws"
INSTANCE = "i-0123456789abcdef0"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7r8nXl0Zb3mF0ZkZ0O2v0n5h1u2Jq3h0b4p8wR9tKX"
ANSWERS = {
    "/latest/meta-data/instance-id": INSTANCE,
    "/latest/meta-data/iam/security-credentials/": "lab-node\n",
    "/latest/meta-data/iam/security-credentials/lab-node": json.dumps(
        {"AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "secret", "Token": "session"}
    ),
}


class Metadata(BaseHTTPRequestHandler):
    """EC2's metadata service, version 2 only: no answer without a token."""

    def do_PUT(self) -> None:
        has_lifetime = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self._answer(200 if has_lifetime and self.path == "/latest/api/token" else 400, "token")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "token":
            self._answer(401, "")
        else:
            self._answer(200 if self.path in ANSWERS else 404, ANSWERS.get(self.path, ""))

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def url() -> Iterator[str]:
    with moto_server() as url:
        yield url


class HostUnderTest:
    """A host with keys in a folder of its own, and the helper as cloud-init installs it."""

    def __init__(self, folder: Path, metadata: str, url: str) -> None:
        self.keys = folder / "ssh"
        self.keys.mkdir()
        settings = {"region": REGION, "endpoint": "https://ssm.invalid", "parameters": "/dto/lab"}
        file = folder / "aws.json"
        file.write_text(json.dumps({**settings, "user": getpass.getuser()}))
        self.environment = {
            **os.environ, "AWS_ENDPOINT_URL": url, "DTO_AWS_METADATA": metadata,
            "DTO_AWS_SETTINGS": str(file), "DTO_AWS_HOST_KEYS": str(self.keys),
        }  # fmt: skip

    def run(self, action: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", str(HELPER), action], env=self.environment, text=True,
            capture_output=True, timeout=60,
        )  # fmt: skip


@pytest.fixture
def host(tmp_path: Path, metadata: str, url: str) -> HostUnderTest:
    return HostUnderTest(tmp_path, metadata, url)


@pytest.mark.timeout(120)
def test_a_host_publishes_its_keys_once_and_never_over_others(
    host: HostUnderTest, url: str
) -> None:
    assert "no host keys" in host.run("publish").stderr
    (host.keys / "ssh_host_ed25519_key.pub").write_text(f"{KEY} root@somewhere\n")
    (host.keys / "ssh_host_rsa_key.pub").write_text("ssh-rsa AAAAB3NzaC1yc2E= root@somewhere\n")
    (host.keys / "ssh_host_ed25519_key").write_text("a private key, which stays here")

    done = host.run("publish")
    assert done.returncode == 0, done.stderr
    ssm = Account(url).client("ssm")
    name = f"/dto/lab/host-keys/{INSTANCE}"
    assert ssm.get_parameter(Name=name)["Parameter"]["Value"] == f"{KEY}\nssh-rsa AAAAB3NzaC1yc2E="

    (host.keys / "ssh_host_rsa_key.pub").write_text("ssh-rsa BBBB root@somewhere\n")
    again = host.run("publish")
    assert again.returncode == 0 and "before" in again.stdout
    assert "BBBB" not in ssm.get_parameter(Name=name)["Parameter"]["Value"]


@pytest.mark.timeout(120)
def test_the_head_may_log_in_once_its_key_is_there(
    tmp_path: Path, host: HostUnderTest, url: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    user = pwd.getpwuid(os.getuid())
    program = tmp_path / "at_home.py"
    # the real user's home is not the test's to write to
    program.write_text(
        f"import pwd, sys, types\n"
        f"user = types.SimpleNamespace(pw_dir={str(home)!r}, pw_uid={user.pw_uid}, "
        f"pw_gid={user.pw_gid}, pw_name={user.pw_name!r})\n"
        f"pwd.getpwnam = lambda name: user\n"
        f"sys.argv = ['dto-aws', 'trust']\n"
        f"exec(compile(open({str(HELPER)!r}).read(), 'dto-aws', 'exec'))\n"
    )

    def trust() -> str:
        done = subprocess.run(
            [sys.executable, str(program)], env=host.environment, text=True,
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "not there yet" in trust()
    ssm = Account(url).client("ssm")
    ssm.put_parameter(Name="/dto/lab/head-key.pub", Type="String", Value=f"{KEY} root@lab-head\n")
    assert "may log in" in trust()
    file = home / ".ssh" / "authorized_keys"
    assert file.read_text() == f"{KEY} dto-head\n" and file.stat().st_mode & 0o777 == 0o600
    assert trust() == ""

    file.write_text(f"ssh-ed25519 OPERATOR me\n{KEY} dto-head\n")
    new = KEY[:-4] + "AAAA"
    ssm.put_parameter(Name="/dto/lab/head-key.pub", Type="String", Value=new, Overwrite=True)
    trust()
    assert file.read_text() == f"ssh-ed25519 OPERATOR me\n{new} dto-head\n"


def test_what_the_metadata_service_does_not_say_is_one_line(host: HostUnderTest) -> None:
    (host.keys / "ssh_host_ed25519_key.pub").write_text(f"{KEY} root@somewhere\n")
    host.environment["DTO_AWS_METADATA"] = "http://127.0.0.1:1"
    done = host.run("publish")
    assert done.returncode == 1 and done.stderr.startswith("dto-aws: ")
    assert len(done.stderr.splitlines()) == 1


def test_requests_are_signed_as_amazons_own_library_signs_them() -> None:
    loader = SourceFileLoader("dto_aws", str(HELPER))
    helper = module_from_spec(spec_from_loader("dto_aws", loader))  # type: ignore[arg-type]
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(helper)
    sys.dont_write_bytecode = before
    keys = json.loads(ANSWERS["/latest/meta-data/iam/security-credentials/lab-node"])
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    body = b'{"Name": "/dto/lab/head-key.pub"}'
    place = f"ssm.{REGION}.amazonaws.com"
    headers = helper.signed(keys, REGION, place, "AmazonSSM.GetParameter", body, now)
    ours = headers.pop("authorization")

    request = AWSRequest("POST", f"https://{place}/", headers, body)
    request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
    names = (keys["AccessKeyId"], keys["SecretAccessKey"], keys["Token"])
    auth = SigV4Auth(Credentials(*names), "ssm", REGION)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    assert ours.endswith(f"Signature={auth.signature(text, request)}")
