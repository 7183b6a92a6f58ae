"""What this host was told to be: /etc/dto/node.json, written by Ansible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dto.cluster.node import metadata
from dto.cluster.node.errors import NodeError

PATH = Path("/etc/dto/node.json")
RUN = Path("/run/dto")
PEER_PORT = 6821


@dataclass(frozen=True)
class Node:
    """This host, the head, and what the gate expects."""

    name: str
    address: str
    head_name: str
    head_address: str
    shared: str
    shared_is_mount: bool = False
    group: str = ""
    gpus: int = 0
    gpu_type: str = "gpu"
    gpu_files: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    peer_port: int = PEER_PORT
    clock_seconds: float = 5.0
    minimum_gbps: float = 0.0
    is_dynamic: bool = True
    spot: bool = False
    """The cloud may take it away at any time."""
    metadata_url: str = metadata.URL
    is_replaced: bool = False
    """What is taken away never comes back; another machine does (AWS)."""
    gone_seconds: float = 1800.0

    @property
    def is_head(self) -> bool:
        return self.name == self.head_name


def read_node(path: Path = PATH) -> Node:
    """Return this host's facts.

    Raises:
        NodeError: there are none, so this host was not set up.
    """
    try:
        return parse_node(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NodeError(f"{path} cannot be used ({error}): run cluster-setup.sh again") from None


def parse_node(raw: Mapping[str, Any]) -> Node:
    values = {key: raw[key] for key in Node.__dataclass_fields__ if key in raw}
    for key in ("gpu_files", "features"):
        values[key] = tuple(values.get(key, ()))
    return Node(**values)


def memory_mib(meminfo: str) -> int:
    """Return the memory of a machine out of the text of /proc/meminfo."""
    total = next(line for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    return int(total.split()[1]) // 1024


def slurmd_options(node: Node, memory: int) -> list[str]:
    """Return slurmd's arguments: a dynamic node describes itself as it registers.

    SLURM gets 95 % of the memory; the rest is the system's.
    """
    words = ["-N", node.name, "--conf-server", node.head_address]
    if not node.is_dynamic:
        return words
    return ["-Z", *words, "--conf", node_line(node, memory)]


def node_line(node: Node, memory: int) -> str:
    """Return what SLURM should know of the node and does not find out by itself."""
    features = dict.fromkeys(filter(None, (node.group, *node.features)))
    words = [f"NodeAddr={node.address}", f"RealMemory={memory * 95 // 100}"]
    words += [f"Feature={','.join(features)}"] if features else []
    words += [f"Gres=gpu:{node.gpu_type}:{node.gpus}"] if node.gpus else []
    return " ".join(words)
