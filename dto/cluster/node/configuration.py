"""Has SLURM's own parser read a slurm.conf before it goes into service."""

from __future__ import annotations

import re
from pathlib import Path

from dto.cluster.node.commands import run
from dto.cluster.node.errors import NodeError

_COMPLAINT = re.compile(r"(?:error|fatal): (.*)")
# `scontrol ping` reads the whole file and then asks a controller, which may well be away.
_HARMLESS = re.compile(r"unable to contact|connection|slurm_ping|timed out|communicat", re.I)


def complaint(said: str) -> str:
    """Return what the parser dislikes, or nothing."""
    found = (match[1].strip() for match in map(_COMPLAINT.search, said.splitlines()) if match)
    return "; ".join(dict.fromkeys(words for words in found if not _HARMLESS.search(words)))


def check(path: Path) -> None:
    """Raise NodeError where SLURM would not take this file."""
    done = run("scontrol", "ping", env={"SLURM_CONF": str(path)}, timeout=60)
    wrong = complaint(done.error + done.out)
    if wrong or done.code == 127:
        raise NodeError(f"SLURM does not take this slurm.conf: {wrong or done.said}")
