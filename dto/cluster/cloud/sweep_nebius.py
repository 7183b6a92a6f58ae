"""Looks on Nebius for what a cluster left, through Nebius's own program where it is installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from dto.cluster.cloud.sweep import Found, Leftover

LABEL = "dto-cluster"
_SECONDS = 60.0
# kind -> the words between `nebius` and `list`
_KINDS = {
    "instance": ("compute", "instance"),
    "disk": ("compute", "disk"),
    "filesystem": ("compute", "filesystem"),
    "GPU cluster": ("compute", "gpu-cluster"),
    "address": ("vpc", "allocation"),
    "security group": ("vpc", "security-group"),
    "subnet": ("vpc", "subnet"),
    "network": ("vpc", "network"),
    "bucket": ("storage", "bucket"),
}


def find(name: str, project: str) -> Found:
    """List everything in a project that is labelled dto-cluster=NAME."""
    left: list[Leftover] = []
    unseen: list[str] = []
    for kind, words in _KINDS.items():
        command = list_command(words, project)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
                errors="replace", timeout=_SECONDS,
            )  # fmt: skip
        except FileNotFoundError:
            typed = " ".join(list_command(_KINDS["instance"], project))
            note = f"the nebius program is not installed here; look yourself: {typed}, and so on"
            return Found((), tuple(_KINDS), (note,))
        except subprocess.TimeoutExpired:
            unseen.append(f"{kind} (no answer)")
            continue
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it failed"]
            unseen.append(f"{kind} ({lines[-1][:120]})")
        else:
            left += parse(kind, words, done.stdout, name)
    return Found(tuple(left), tuple(unseen))


def list_command(words: Sequence[str], project: str) -> list[str]:
    return ["nebius", *words, "list", "--parent-id", project, "--page-size", "999",
            "--format", "json"]  # fmt: skip


def parse(kind: str, words: Sequence[str], text: str, name: str) -> list[Leftover]:
    """Take what has our label out of a listing, with the command that deletes it."""
    try:
        items: list[dict[str, Any]] = json.loads(text or "{}").get("items") or []
    except (ValueError, AttributeError):
        return []
    found = [item.get("metadata") or {} for item in items]
    return [
        Leftover(kind, str(one.get("id")), f"nebius {' '.join(words)} delete --id {one.get('id')}")
        for one in found
        if (one.get("labels") or {}).get(LABEL) == name
    ]
