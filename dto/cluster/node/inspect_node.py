"""What `verify` runs inside a job: the GPUs SLURM gave, the shared folder, an all-reduce."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dto.cluster.node import peer, probes
from dto.cluster.node.errors import NodeError
from dto.cluster.node.facts import Node


def gpus_given(env: Mapping[str, str]) -> int:
    """Count what SLURM lets this job see."""
    return len([word for word in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()])


def content(token: str, name: str) -> bytes:
    return hashlib.sha256(f"{token}{name}".encode()).digest() * 1024


def write(node: Node, token: str) -> dict[str, object]:
    """Leave a file for the other nodes, and look at the node itself."""
    problems = probes.gpu_files(node) or probes.gpus_listed(node)
    try:
        with open(_path(node, token, node.name), "xb") as file:
            file.write(content(token, node.name))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        problems.append(f"{node.shared} cannot be written: {error.strerror}")
    return {"name": node.name, "gpus": gpus_given(os.environ), "problems": problems}


def read(node: Node, token: str, others: Sequence[str]) -> dict[str, object]:
    """Read what the other nodes have left."""
    problems = []
    for other in others:
        try:
            if _path(node, token, other).read_bytes() != content(token, other):
                problems.append(f"reads other bytes in {node.shared} than {other} wrote")
        except OSError as error:
            problems.append(f"cannot read what {other} wrote in {node.shared}: {error.strerror}")
    return {"name": node.name, "problems": problems}


def reduce_pair(node: Node, places: Mapping[str, str]) -> dict[str, object]:
    """All-reduce with the other one of two nodes, both at once."""
    other = next(name for name in places if name != node.name)
    try:
        result = peer.reduce_with(places[other], node.peer_port)
    except NodeError as error:
        return {"name": node.name, "problem": str(error), "gbps": 0.0}
    problem = "" if result.is_right else "wrong numbers"
    return {"name": node.name, "problem": problem, "gbps": round(result.gbps, 3)}


def _path(node: Node, token: str, name: str) -> Path:
    return Path(node.shared) / "dto/probe" / f"verify-{token}-{name}"
