"""Tells one process, and one boot of a machine, from every other."""

from __future__ import annotations

from pathlib import Path


def boot_id() -> str:
    """Return what tells this boot of this kernel from every other; containers share it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_started(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
