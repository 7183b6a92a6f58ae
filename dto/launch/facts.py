"""What an agent finds out about its node before any rank starts."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dto import __version__
from dto.launch.network import host_identity
from dto.launch.spec import Spec

_PACKAGES = {"gloo": "torch", "nccl": "torch", "horovod": "horovod"}
_PROBE = (
    "import sys,json,platform,importlib.util as u;"
    "print(json.dumps([platform.python_version(),[n for n in sys.argv[1:] if not u.find_spec(n)]]))"
)
_PROBE_SECONDS = 120.0


def node_name(env: Mapping[str, str]) -> str:
    return env.get("DTO_NODE") or env.get("SLURMD_NODENAME") or socket.gethostname()


def node_index(env: Mapping[str, str]) -> int:
    return int(env.get("DTO_NODE_INDEX") or env.get("SLURM_NODEID") or 0)


def gather(env: Mapping[str, str], spec: Spec) -> dict[str, Any]:
    """Return the agent's hello. `problem` is what makes the job impossible here, or ""."""
    version, problem = _probe(spec)
    return {
        "node": node_name(env),
        "index": node_index(env),
        "host": host_identity(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "python": version,
        "dto": __version__,
        "problem": problem or _missing_files(spec),
    }


def _missing_files(spec: Spec) -> str:
    if spec.script is not None and not os.access(spec.script, os.R_OK):
        return f"cannot read {spec.script}: is it on a filesystem that all nodes share?"
    if not os.path.isdir(spec.cwd):
        return f"has no directory {spec.cwd}: start the run from one that all nodes share"
    return ""


def _probe(spec: Spec) -> tuple[str, str]:
    """Return the interpreter's version and what is wrong with it."""
    package = _PACKAGES.get(spec.backend)
    wanted = [package] if package else []
    if _is_our_own(spec.python):
        missing = [name for name in wanted if importlib.util.find_spec(name) is None]
        return platform.python_version(), _lack(spec, missing)
    return _probe_other(spec, wanted)


def _is_our_own(python: str) -> bool:
    return python == sys.executable


def _probe_other(spec: Spec, wanted: Sequence[str]) -> tuple[str, str]:
    try:
        done = subprocess.run(
            [spec.python, "-c", _PROBE, *wanted],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        version, missing = json.loads(done.stdout)
    except OSError as error:
        return (
            "",
            f"cannot start {spec.python} ({error.strerror}): install it there",
        )
    except subprocess.TimeoutExpired:
        return "", f"{spec.python} did not answer within {_PROBE_SECONDS:.0f} s"
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return (
            "",
            f"{spec.python} is no working Python: {said[-1] if said else 'it says nothing'}",
        )
    return str(version), _lack(spec, missing)


def _lack(spec: Spec, missing: Sequence[str]) -> str:
    if not missing:
        return ""
    remedy = "scripts/install-horovod.sh" if "horovod" in missing else f"pip install {missing[0]}"
    return f"{spec.python} has no {missing[0]}, which --backend {spec.backend} needs: run {remedy}"
