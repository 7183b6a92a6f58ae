"""Somebody who types `dto cluster ...` in a folder of their own, in the make-believe AWS."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cloud import moto
from tests.cloud.terraform import environment
from tests.helpers import dto, dto_argv

# A cluster with everything that is not needed to prove the commands left out.
SMALL = {
    "instance_type": "g5.xlarge",
    "instance_count": "2",
    "allowed_cidr_blocks": '["203.0.113.7/32"]',
    "shared_storage": "nfs",
    "create_s3_bucket": "false",
    "create_nat_gateway": "false",
    "region": moto.REGION,
    "prices": '{"g5.xlarge": 1.5, "m6i.large": 0.25}',
    "budget": "{amount = 650}",
}

# A bucket and what stands beside it: the smallest folder that `down` can be tried on.
BUCKET_ROOT = """
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}
variable "cluster_name" { type = string }
variable "region" { type = string }
provider "aws" { region = var.region }
locals { tags = { "dto:cluster" = var.cluster_name } }
resource "aws_s3_bucket" "this" {
  bucket = "${var.cluster_name}-bucket"
  tags   = local.tags
}
resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id
  versioning_configuration { status = "Enabled" }
}
resource "aws_ebs_volume" "this" {
  availability_zone = "${var.region}a"
  size              = 1
  tags              = local.tags
}
"""


class Operator:
    """Runs commands; the exit code is the caller's to judge."""

    def __init__(self, folder: Path, url: str, **more: str) -> None:
        self.folder = folder
        self.url = url
        self.environment = environment({**moto.environment(url), **more})

    def type(self, *words: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        return dto("cluster", *words, env=self.environment, cwd=self.folder, timeout=timeout)

    def answer(self, answers: str, *words: str) -> tuple[int, str]:
        """Type a command at a terminal and answer its questions."""
        return answered(dto_argv("cluster", *words), answers, self.environment, self.folder)

    def client(self, service: str) -> Any:
        import boto3

        return boto3.client(
            service, region_name=moto.REGION, endpoint_url=self.url,
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # fmt: skip

    def make_root(self, text: str) -> None:
        (self.folder / "main.tf").write_text(text)

    def image(self) -> str:
        """An image that this AWS has."""
        wanted = [{"Name": "architecture", "Values": ["x86_64"]}]
        images = self.client("ec2").describe_images(Filters=wanted)["Images"]
        return str(images[0]["ImageId"])


def answered(argv: list[str], answers: str, env: Mapping[str, str], cwd: Path) -> tuple[int, str]:
    """Run a program at a terminal of its own; return its exit code and all that was on it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        argv, env=env, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as child:
        os.close(theirs)
        os.write(ours, answers.encode())
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end has gone
                break
            if not piece:
                break
            seen += piece
        code = child.wait(60)
    os.close(ours)
    return code, seen.decode("utf-8", "replace")
