"""What people ask of a run (stop, cancel, resume): one small file a request, never edited."""

from __future__ import annotations

import getpass
import os
import socket
import time
from pathlib import Path
from typing import Any, Literal

from dto.runs.files import read_json, write_json
from dto.runs.paths import Run, cannot_write

Kind = Literal["stop", "cancel", "resume"]


def post(run: Run, kind: Kind, **fields: Any) -> Path:
    """Leave a request where the run's coordinator looks every second."""
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}"
    path = run.requests / f"{stamp}-{socket.gethostname()}-{os.getpid()}.json"
    try:
        run.requests.mkdir(exist_ok=True)
        write_json(path, {"t": now, "kind": kind, "by": _user(), **fields})
    except OSError as error:
        raise cannot_write(run.path, error) from None
    return path


def pending(run: Run, since: float = 0.0) -> list[dict[str, Any]]:
    """Return the requests made after `since` (seconds since the epoch), oldest first."""
    try:
        names = sorted(os.listdir(run.requests))
    except FileNotFoundError:
        return []
    rows = (
        read_json(run.requests / name)
        for name in names
        if name.endswith(".json") and not name.startswith(".")
    )
    dated = [row for row in rows if row and isinstance(row.get("t"), (int, float))]
    return sorted((row for row in dated if row["t"] > since), key=lambda row: float(row["t"]))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return str(os.getuid())
