"""What a cluster holds that cannot be made again: its bucket and its filesystem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dto.cluster.cloud.aws import client, code_of, is_of_aws, pages, plain_errors
from dto.cluster.cloud.planned import Resource
from dto.errors import ClusterError

_BUCKETS = ("aws_s3_bucket", "nebius_storage_v1_bucket")
_FILESYSTEMS = ("aws_efs_file_system", "nebius_compute_v1_filesystem")
_LUSTRE = "aws_fsx_lustre_file_system"
_WITH_BUCKET = "aws_s3_bucket_"
_WITH_FILESYSTEM = ("aws_efs_backup_policy", "aws_efs_file_system_policy", "aws_efs_access_point")


@dataclass(frozen=True)
class Store:
    """A bucket or a filesystem of the state; `addresses` are all that belongs to it there."""

    kind: str
    id: str
    name: str
    addresses: tuple[str, ...]
    provider: str

    @property
    def is_bucket(self) -> bool:
        return self.kind == "bucket"

    @property
    def can_stay(self) -> bool:
        """Lustre's servers stand in the cluster's own network, which goes."""
        return self.kind != "FSx for Lustre"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def stores_in(resources: Iterable[Resource]) -> list[Store]:
    """Find what holds data in a state, with what must be forgotten to keep it as it is."""
    found, every = [], list(resources)
    for one in every:
        provider = one.type.partition("_")[0]
        if one.type in _BUCKETS:
            name = str(one.values.get("bucket") or one.values.get("name") or one.id)
            parts = [
                part.address
                for part in every
                if part.type.startswith(_WITH_BUCKET)
                and part.values.get("bucket") in (name, one.id)
            ]
            found.append(Store("bucket", one.id or name, name, (one.address, *parts), provider))
        elif one.type in _FILESYSTEMS:
            parts = [
                part.address
                for part in every
                if part.type in _WITH_FILESYSTEM and part.values.get("file_system_id") == one.id
            ]
            kind = "EFS" if provider == "aws" else "filesystem"
            found.append(Store(kind, one.id, one.id, (one.address, *parts), provider))
        elif one.type == _LUSTRE:
            found.append(Store("FSx for Lustre", one.id, one.id, (one.address,), provider))
    return found


def staying(store: Store, region: str) -> str:
    """Say what a kept store costs, how to use it again, and how to be rid of it."""
    text = f"{store} stays and is billed by the GiB and month"
    address = store.addresses[0]
    if store.is_bucket and store.provider == "aws":
        text += f"; to be rid of it: aws s3 rb --force s3://{store.name}"
    elif store.kind == "EFS":
        gone = f"aws efs delete-file-system --region {region} --file-system-id {store.id}"
        text += f"; to be rid of it: {gone}"
    return f"{text}; to use it in the next cluster: terraform import '{address}' {store.id}"


def holds_anything(store: Store, region: str) -> bool:
    """Look into a bucket; what cannot be looked into counts as full."""
    if not store.is_bucket:
        return False
    if store.provider != "aws":
        return True
    try:
        answer = _s3(region).list_object_versions(Bucket=store.name, MaxKeys=1)
    except Exception as error:
        if not is_of_aws(error):
            raise
        return code_of(error) not in ("NoSuchBucket", "404")
    return bool(answer.get("Versions") or answer.get("DeleteMarkers"))


def empty_bucket(name: str, region: str) -> int:
    """Delete every version of every object; return how many there were."""
    s3, count = _s3(region), 0
    with plain_errors(f"bucket {name}"):
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=name):
            gone = [
                {"Key": one["Key"], "VersionId": one["VersionId"]}
                for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]
            if gone:
                done = s3.delete_objects(Bucket=name, Delete={"Objects": gone, "Quiet": True})
                for error in done.get("Errors", ()):
                    raise ClusterError(f"bucket {name}: {error.get('Key')}: {error.get('Message')}")
                count += len(gone)
        uploads: list[Any] = pages(s3, "list_multipart_uploads", "Uploads", Bucket=name)
        for one in uploads:
            s3.abort_multipart_upload(Bucket=name, Key=one["Key"], UploadId=one["UploadId"])
    return count


def _s3(region: str) -> Any:
    return client("s3", region)
