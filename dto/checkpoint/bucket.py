"""Copies of checkpoints and final models in an Amazon S3 bucket, whole or absent there too."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dto.checkpoint.manifest import Manifest
from dto.checkpoint.store import MANIFEST, Commit
from dto.checkpoint.tensor_file import why_not
from dto.errors import CheckpointError, DtoError, UsageError

_ARN = re.compile(r"arn:(aws[a-z-]*):s3:::([^/:]+)(?:/(.*))?")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# where a partition's endpoints are, if the user's configuration names no region
_REGIONS = {"aws-us-gov": "us-gov-west-1", "aws-cn": "cn-north-1"}


def parse_bucket(text: str) -> tuple[str, str, str]:
    """(bucket, key prefix, partition) of a bucket's name or ARN; `arn:…/folder` gives a prefix."""
    match = _ARN.fullmatch(text)
    if match:
        prefix = (match[3] or "").strip("/")
        return match[2], f"{prefix}/" if prefix else "", match[1]
    if not _NAME.fullmatch(text):
        raise UsageError(f"{text!r} is no bucket: give its name or ARN, arn:aws:s3:::NAME")
    return text, "", "aws"


class Bucket:
    """One bucket; credentials and region come from the usual AWS configuration."""

    def __init__(self, bucket: str, endpoint_url: str | None = None) -> None:
        self.name, self.prefix, partition = parse_bucket(bucket)
        try:
            import boto3
        except ModuleNotFoundError:
            raise DtoError("Amazon S3 needs boto3: pip install 'dto[s3]'") from None
        session = boto3.session.Session()
        region = session.region_name or _REGIONS.get(partition)
        self._client: Any = session.client("s3", region_name=region, endpoint_url=endpoint_url)

    def upload_commit(self, commit: Commit, run_id: str) -> str:
        """Copy a checkpoint to `checkpoints/<run>/<name>`, manifest last; returns that key."""
        key = f"checkpoints/{run_id}/{commit.name}"
        manifest = Manifest.from_json((commit.path / MANIFEST).read_bytes())
        for name in (*manifest.files, MANIFEST):
            self.upload(commit.path / name, f"{key}/{name}")
        return key

    def upload_final(self, path: Path) -> str:
        """Copy a final model to `final_models/<file>`; returns that key."""
        return self.upload(path, f"final_models/{path.name}")

    def upload(self, path: Path, key: str) -> str:
        """Copy one file; an object is only there once it is whole."""
        with self._errors(f"upload {key}"):
            self._client.upload_file(str(path), self.name, self.prefix + key)
        return key

    def list_checkpoints(self, run_id: str | None = None) -> list[str]:
        """Keys to download, of one run or all: whole checkpoints, and `.pt` files of old runs."""
        found = []
        for key in self._keys(f"checkpoints/{run_id}/" if run_id else "checkpoints/"):
            if key.endswith(f"/{MANIFEST}"):
                found.append(key.removesuffix(f"/{MANIFEST}"))
            elif key.endswith(".pt"):
                found.append(key)
        return found

    def download(self, key: str, local_path: Path | None = None) -> Path:
        """Fetch one file or one checkpoint, hashes compared; nothing appears unless it is whole."""
        target = Path(local_path) if local_path is not None else Path(key.rsplit("/", 1)[-1])
        if target.exists() and (target.is_dir() or local_path is None):
            raise DtoError(f"{target} exists: name another place for the download")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        is_file = key in self._keys(key)
        try:
            if is_file:
                self._fetch(key, partial)
            else:
                self._fetch_commit(key, partial)
            os.replace(partial, target)
        finally:
            if partial.is_dir():
                shutil.rmtree(partial)
            partial.unlink(missing_ok=True)
        return target

    def _fetch_commit(self, key: str, partial: Path) -> None:
        if f"{key}/{MANIFEST}" not in self._keys(f"{key}/"):
            raise DtoError(f"bucket {self.name} holds no {key}")
        partial.mkdir()
        self._fetch(f"{key}/{MANIFEST}", partial / MANIFEST)
        manifest = Manifest.from_json((partial / MANIFEST).read_bytes())
        for name, record in manifest.files.items():
            self._fetch(f"{key}/{name}", partial / name)
            reason = why_not(partial / name, record)
            if reason is not None:
                raise CheckpointError(f"{key} in bucket {self.name} is damaged: {reason}")

    def _fetch(self, key: str, path: Path) -> None:
        with self._errors(f"download {key}"):
            self._client.download_file(self.name, self.prefix + key, str(path))

    def _keys(self, start: str) -> list[str]:
        with self._errors("list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=self.prefix + start
            )
            keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key[len(self.prefix) :] for key in keys]

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            words = " ".join(str(error).split())
            raise DtoError(f"bucket {self.name}: cannot {what}: {words}") from error
