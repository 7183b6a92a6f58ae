"""dto as a wheel, its node programs, scripts and examples: what the playbooks bring to hosts.

They are the same bytes for the same sources, so a second run has nothing to copy.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import zipfile
from collections.abc import Mapping
from pathlib import Path

from dto.cluster.playbook import is_checkout
from dto.errors import DtoError

_ROOT = Path(__file__).parents[2]
_EPOCH = (1980, 1, 1, 0, 0, 0)
_BUILD_SECONDS = 120
# sys.argv[0] stays the archive: that is how the programs start themselves again.
_START = b"""import sys

if sys.version_info < (3, 10):
    sys.exit("dto needs Python 3.10 or newer on its hosts")
from dto.cluster.node.__main__ import main

sys.exit(main())
"""


def build_wheel(folder: Path) -> Path:
    """Put dto's wheel into a folder and return its path; there is no other wheel in it then."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        made = _from_checkout(Path(beside)) if is_checkout() else _from_installed(Path(beside))
        for old in folder.glob("dto-*.whl"):
            if old.name != made.name:
                old.unlink()
        target = folder / made.name
        os.replace(made, target)
    return target


def pack_node_programs(folder: Path) -> Path:
    """Put node.pyz, which a host's own Python runs, into a folder and return its path."""
    package = Path(__file__).parent / "node"
    files = {
        f"dto/cluster/node/{path.relative_to(package)}": path.read_bytes()
        for path in sorted(package.rglob("*.py"))
    }
    # the real ones import what hosts do not have
    rooms = {"dto/__init__.py": b"", "dto/cluster/__init__.py": b""}
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / "node.pyz", folder / "node.pyz.partial"
    write_zip(partial, {"__main__.py": _START, **rooms, **files})
    os.replace(partial, target)
    return target


def write_zip(target: Path, files: Mapping[str, bytes]) -> None:
    """Write files into an archive that is the same bytes whenever and wherever it is made."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def _from_checkout(folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    env = {**os.environ, "SOURCE_DATE_EPOCH": "315532800", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=_ROOT, env=env, text=True, capture_output=True, timeout=_BUILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DtoError(f"building dto's wheel took more than {_BUILD_SECONDS} s") from None
    wheels = list(folder.glob("dto-*.whl"))
    if done.returncode or not wheels:
        words = (done.stderr or done.stdout).strip().splitlines() or ["hatchling said nothing"]
        raise DtoError(f"dto's wheel could not be built: {words[-1]}")
    return wheels[0]


def _from_installed(folder: Path) -> Path:
    """Take the wheel that it was installed from, or put the installed files together again.

    Then only what pip itself added is left out.
    """
    try:
        installed = importlib.metadata.distribution("dto")
    except importlib.metadata.PackageNotFoundError:
        raise DtoError("dto is neither a checkout nor installed here: pip install dto") from None
    added = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    files: dict[str, bytes] = {}
    for path in installed.files or ():
        inside = path.parts[0] == "dto" or path.parts[0].endswith(".dist-info")
        if inside and path.name not in added and path.suffix != ".pyc":
            files[path.as_posix()] = Path(str(path.locate())).read_bytes()
    if origin := _origin(installed.read_text("direct_url.json"), files):
        return Path(shutil.copy(origin, folder))
    info = next(name.partition("/")[0] for name in files if name.endswith("/METADATA"))
    record = f"{info}/RECORD"
    lines = [f"{name},{_digest(content)},{len(content)}" for name, content in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    target = folder / f"dto-{installed.version}-py3-none-any.whl"
    write_zip(target, files)
    return target


def _origin(direct_url: str | None, files: Mapping[str, bytes]) -> Path | None:
    """Return the wheel file that pip says it installed (PEP 610), if it holds these very files.

    Its hash is no proof: pip before 23.1 does not write it down.
    """
    parts = urllib.parse.urlsplit(json.loads(direct_url or "{}").get("url", ""))
    path = Path(urllib.parse.unquote(parts.path))
    if parts.scheme != "file" or path.suffix != ".whl" or not path.is_file():
        return None
    with zipfile.ZipFile(path) as archive:
        names = [
            name for name in archive.namelist() if not name.endswith((".dist-info/RECORD", "/"))
        ]
        is_same = set(names) == set(files) and all(archive.read(n) == files[n] for n in names)
    return path if is_same else None


def _digest(content: bytes) -> str:
    raw = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={raw.rstrip(b'=').decode()}"


def gather_tree(folder: Path, sources: Mapping[str, Path]) -> Path:
    """Copy scripts/ and examples/ into one folder, without what Python left in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        partial = folder / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
    return folder
