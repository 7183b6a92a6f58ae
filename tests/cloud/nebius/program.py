"""A stand-in for Nebius's own program `nebius`, on the stub's make-believe cloud.

It lists and deletes as its documentation and its API say; like the cloud, it takes nothing away
that something else still needs. A bucket is only scheduled for deletion unless it is told --ttl 0s.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.cloud.nebius import store

REPOSITORY = Path(__file__).parents[3]
# Its exit codes: https://docs.nebius.com/cli/exit-codes
MISTYPED, NOT_FOUND, FORBIDDEN, IN_USE = 2, 13, 15, 17
MAY_NOT = "NEBIUS_STUB_MAY_NOT"
"""What the one who signed in may not do, as `delete disk`."""
LOG = "NEBIUS_STUB_LOG"


def install(folder: Path, place: Path) -> dict[str, str]:
    """Put `nebius` into a folder; return the environment in which it is found and has its cloud."""
    folder.mkdir(parents=True)
    program = folder / "nebius"
    start = f'exec "{sys.executable}" -B -m tests.cloud.nebius.program "$@"'
    program.write_text(f"#!/bin/sh\nPYTHONPATH='{REPOSITORY}' {start}\n")
    program.chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        store.VARIABLE: str(place),
        LOG: str(folder / "log"),
    }


def main(words: list[str]) -> int:
    with open(os.environ[LOG], "a", encoding="utf-8") as log:
        log.write(f"{' '.join(words)}\n")
    service, kind, verb, *rest = words
    if os.environ.get(MAY_NOT) == f"{verb} {kind}":
        return _refused(FORBIDDEN, "PermissionDenied", f"no permission to {verb} a {kind}")
    name = f"nebius_{service}_v1_{kind.replace('-', '_')}"
    if verb == "list" and rest[0::2][:1] == ["--parent-id"] and rest[2:] == _LIST:
        print(json.dumps(_listing(name, rest[1])))
        return 0
    if verb in ("delete", "purge") and rest[:1] == ["--id"]:
        return _gone(name, verb, rest[1], rest[2:])
    return _refused(MISTYPED, "InvalidArgument", f"unknown command: {' '.join(words)}")


_LIST = ["--all", "--format", "json"]


def _listing(name: str, parent: str) -> dict[str, Any]:
    """Empty values are left out of its JSON, as the true one does."""
    found = [
        {
            "metadata": {key: values[key] for key in ("id", "name", "labels") if values.get(key)},
            "status": values.get("status") or {},
        }
        for values in _existing(name).values()
        if values["parent_id"] == parent
    ]
    return {"items": found} if found else {}


def _gone(name: str, verb: str, identity: str, more: list[str]) -> int:
    found = _existing(name).get(identity)
    if found is None:
        return _refused(NOT_FOUND, "NotFound", f"{identity} does not exist")
    is_bucket = name == "nebius_storage_v1_bucket"
    if more != (["--ttl", "0s"] if more and is_bucket else []) or (verb == "purge" and more):
        return _refused(MISTYPED, "InvalidArgument", f"unknown flag: {more[0]}")
    if is_bucket and verb == "delete" and not more:
        store.update({**found, "status": {"state": "SCHEDULED_FOR_DELETION"}})
        return 0
    try:
        store.delete(identity)
    except store.Refused as error:
        return _refused(IN_USE, "FailedPrecondition", str(error))
    return 0


def _existing(name: str) -> dict[str, dict[str, Any]]:
    found = store.exists(Path(os.environ[store.VARIABLE])).items()
    return {key: entry["values"] for key, entry in found if entry["kind"] == name}


def _refused(code: int, name: str, words: str) -> int:
    print(f"ERROR: rpc error: code = {name}\n  desc = {words}", file=sys.stderr)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
