"""What keeps an apply from working is one line and exit code 5, before anything is made."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.cloud import moto
from tests.cloud.operator import Operator
from tests.helpers import REPOSITORY

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(300)]

# Only what the checks read: the real variables, nothing to make.
ROOT = """
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}
variable "region" { default = "eu-north-1" }
variable "instance_type" { default = "g5.xlarge" }
variable "instance_count" { default = 1 }
variable "availability_zone" { default = null }
variable "ami_id" { default = null }
variable "private_subnet_cidr" { default = "10.0.0.0/24" }
variable "enable_efa" { default = null }
"""
NEBIUS_ROOT = (
    'terraform {\n  required_providers {\n    nebius = { source = "nebius/nebius" }\n  }\n}\n'
)


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto.moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def operator(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    made = Operator(tmp_path_factory.mktemp("root"), aws)
    made.make_root(ROOT)
    return made


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["instance_type=p9.huge"], "AWS has no instance type p9.huge in eu-north-1"),
        (["availability_zone=eu-north-1z"], "zone eu-north-1z does not offer g5.xlarge; these do"),
        (["ami_id=ami-0123456789abcdef0"], "image ami-0123456789abcdef0 is not in eu-north-1"),
        (
            ["instance_type=p5.48xlarge", "instance_count=8"],
            "subnet 10.0.0.0/24 has 251 addresses, 8 x p5.48xlarge with 32 network cards each",
        ),
    ],
)
def test_what_aws_cannot_give_is_refused(operator: Operator, given: list[str], told: str) -> None:
    done = operator.type("plan", *(f"--var={one}" for one in given))
    assert done.returncode == 5, done.stderr
    assert done.stderr.splitlines()[-1].startswith("dto: error: ")
    assert told in done.stderr.splitlines()[-1]
    assert "nothing was made" in done.stderr and "Traceback" not in done.stderr


class _Expired(BaseHTTPRequestHandler):
    """An AWS whose answer to everything is that the token has expired."""

    def do_POST(self) -> None:
        error = "<Error><Code>ExpiredToken</Code><Message>The token is expired</Message></Error>"
        text = f"<ErrorResponse>{error}</ErrorResponse>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def expired() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Expired) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_expired_and_missing_credentials_are_told_as_such(
    tmp_path: Path, expired: str, aws: str
) -> None:
    late = Operator(tmp_path, expired)
    late.make_root(ROOT)
    done = late.type("up", "--yes", "--no-setup")
    assert done.returncode == 5
    assert "the AWS credentials have expired: renew them" in done.stderr, done.stderr
    nobody = Operator(tmp_path, aws)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del nobody.environment[name]
    done = nobody.type("down", "--yes")  # nothing is applied here: that comes first
    assert done.returncode == 1 and "nothing is applied" in done.stderr
    done = nobody.type("plan")
    assert done.returncode == 5
    assert "no AWS credentials are set" in done.stderr, done.stderr


def _token(seconds: float) -> str:
    body = json.dumps({"exp": time.time() + seconds}).encode()
    return f"e30.{base64.urlsafe_b64encode(body).decode().rstrip('=')}.sign"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "no Nebius credentials: set NEBIUS_IAM_TOKEN, or NB_SA_ID"),
        ({"NB_SA_ID": "serviceaccount-1"}, "NB_AUTHKEY_PUBLIC_ID, NB_AUTHKEY_PRIVATE_PATH not set"),
        ({"NEBIUS_IAM_TOKEN": -60}, "NEBIUS_IAM_TOKEN has expired"),
        ({"NEBIUS_IAM_TOKEN": 600}, "NEBIUS_IAM_TOKEN expires in "),
    ],
)
def test_nebius_without_usable_credentials_is_refused(
    tmp_path: Path, given: dict[str, str | int], told: str
) -> None:
    """A number is a token that expires in so many seconds from now."""
    known = {n: _token(value) if isinstance(value, int) else value for n, value in given.items()}
    operator = Operator(tmp_path, "http://127.0.0.1:9", **known)
    operator.make_root(NEBIUS_ROOT)
    done = operator.type("plan")
    assert done.returncode == 5, done.stderr
    assert told in done.stderr


def test_a_missing_or_old_terraform_is_told_first(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "http://127.0.0.1:9")
    operator.make_root(ROOT)
    bare = tmp_path / "bin"
    bare.mkdir()
    operator.environment["PATH"] = str(bare)
    done = operator.type("plan")
    assert done.returncode == 5
    assert "terraform is not installed, or not on PATH" in done.stderr
    fake = bare / "terraform"
    fake.write_text('#!/bin/sh\necho \'{"terraform_version": "1.5.7"}\'\n')
    fake.chmod(0o755)
    operator.environment["PATH"] = f"{bare}:{os.environ['PATH']}"
    done = operator.type("plan")
    assert done.returncode == 5
    assert "terraform is 1.5.7: dto needs 1.11 or newer" in done.stderr


def test_a_folder_without_terraform_is_a_usage_error(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "http://127.0.0.1:9")
    for words, told in (
        (["plan"], "no *.tf in the current folder: name a cloud (aws or nebius) or a folder"),
        (["up", "azure"], "azure is neither a cloud that dto knows (aws, nebius) nor a folder"),
        (["down", str(REPOSITORY / "docs")], "holds no *.tf"),
        (["down", "--cluster-name", "x"], "--region is missing"),
    ):
        if "--region" in told:
            del operator.environment["AWS_REGION"], operator.environment["AWS_DEFAULT_REGION"]
        done = operator.type(*words)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr
    operator.make_root(ROOT)
    done = operator.type("plan", "--var", "region")
    assert (done.returncode, "write NAME=VALUE" in done.stderr) == (2, True)
    done = operator.type("down", "--keep-data", "--delete-data")
    assert (done.returncode, "do not go together" in done.stderr) == (2, True)
