"""Small records of clusters for tests."""

from __future__ import annotations

import base64
import os
import shutil
import struct
from typing import Any

import pytest

from dto.cluster.inventory import DtoCluster, parse_record


def public_key(seed: int = 0, kind: str = "ssh-ed25519") -> str:
    parts = [kind.encode(), bytes([seed] * 32)]
    blob = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return f"{kind} {base64.b64encode(blob).decode()}"


def small(**more: Any) -> dict[str, Any]:
    return {
        "name": "lab",
        "head": {"name": "lab-head", "address": "10.0.0.1"},
        "nodes": [
            {"name": "lab-001", "address": "10.0.0.2", "gpus": 2},
            {"name": "lab-002", "address": "10.0.0.3"},
        ],
        **more,
    }


def record(**more: Any) -> DtoCluster:
    return parse_record(small(**more), "test")


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a program is missing; CI has them all, so there the test fails instead."""
    is_missing = shutil.which(program) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(is_missing, reason=f"needs {program}")
