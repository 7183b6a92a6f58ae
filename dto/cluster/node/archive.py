"""What a head cannot be made again without: SLURM's state, the munge key, records, the database."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dto.cluster.node.commands import run
from dto.cluster.node.errors import NodeError

DATABASE = "slurm_acct_db"
_MANIFEST = "dto-backup.json"
_DUMP = "database.sql"
_VERSION = 1
_TRIES = 5
RESTORED = ("etc/munge", "var/lib/slurm", "var/spool/slurm", "etc/dto/munge.made")
"""Configuration is in the archive to be read; the playbooks write it for the new head."""


def save(target: Path, places: Sequence[Path], facts: Mapping[str, str]) -> Path:
    """Write an archive that only root can read; whole or not at all.

    Raises:
        NodeError: SLURM's state would not hold still, or the database cannot be read.
    """
    found = [place for place in places if place.exists()]
    dump = _dump()
    partial = target.with_name(target.name + ".partial")
    for _ in range(_TRIES):
        before = _stamps(found)
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            about = {"version": _VERSION, "made": int(time.time()), **facts}
            _add_bytes(archive, _MANIFEST, json.dumps(about, indent=1).encode())
            if dump is not None:
                _add_bytes(archive, _DUMP, dump)
            for place in found:
                with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: seen below
                    archive.add(place, arcname=str(place).lstrip("/"))
            file.flush()
            os.fsync(file.fileno())
        if _stamps(found) == before:
            os.replace(partial, target)
            return target
        time.sleep(1)
    partial.unlink(missing_ok=True)
    raise NodeError("SLURM's state changes all the time: try again when fewer jobs start and end")


def check(source: Path, cluster: str) -> dict[str, Any]:
    """Read an archive to its end and return its facts; nothing is written.

    Raises:
        NodeError: it is damaged, no archive of ours, or another cluster's.
    """
    try:
        with gzip.open(source) as packed:
            while packed.read(1 << 20):  # its checksum comes last
                pass
        with tarfile.open(source) as archive:
            about = archive.extractfile(_MANIFEST)
            facts = json.loads(about.read()) if about else {}
            if not isinstance(facts, dict) or facts.get("version") != _VERSION:
                raise NodeError(f"{source} was made by another dto: use that one")
            facts["has_database"] = _DUMP in archive.getnames()
    except (OSError, EOFError, KeyError, ValueError, zlib.error, tarfile.TarError) as error:
        raise NodeError(f"{source} is no whole backup of dto's: {error}") from None
    if facts.get("cluster") != cluster:
        theirs = facts.get("cluster", "that is not named")
        raise NodeError(f"{source} is a backup of cluster {theirs}, not of {cluster}")
    return facts


def restore(source: Path, cluster: str, root: Path = Path("/")) -> dict[str, Any]:
    """Put database, key and state in place; the daemons are stopped. Returns the archive's facts.

    Raises:
        NodeError: that is no archive of this cluster, or the database cannot be restored.
    """
    facts = check(source, cluster)
    with tarfile.open(source) as archive:
        members = [member for member in archive if _is_wanted(member)]
        if (dump := _read(archive, _DUMP)) is not None:
            _load(dump)
        for top in _tops(members):
            _remove(root / top)
        for member in members:
            _extract(archive, member, root)
    return facts


def _is_wanted(member: tarfile.TarInfo) -> bool:
    parts = Path(member.name).parts
    is_inside = any(parts[: len(Path(top).parts)] == Path(top).parts for top in RESTORED)
    return is_inside and ".." not in parts and (member.isreg() or member.isdir())


def _tops(members: Iterable[tarfile.TarInfo]) -> list[str]:
    """Return the folders of which nothing older may stay: SLURM's state is one whole."""
    return [member.name for member in members
            if member.isdir() and Path(member.name).name == "slurmctld"]  # fmt: skip


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    """Write one entry as the owner of that name here: numbers may differ on a fresh head."""
    path = root / member.name
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
    else:
        content = archive.extractfile(member)
        assert content is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            shutil.copyfileobj(content, file)
    if os.geteuid() == 0:
        with contextlib.suppress(LookupError):
            shutil.chown(path, member.uname or member.uid, member.gname or member.gid)
    path.chmod(member.mode)


def _read(archive: tarfile.TarFile, name: str) -> bytes | None:
    with contextlib.suppress(KeyError):
        file = archive.extractfile(name)
        return file.read() if file else None
    return None


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(data))


def _stamps(places: Iterable[Path]) -> dict[str, tuple[int, int, int]]:
    found = {}
    for place in places:
        for path in [place, *place.rglob("*")] if place.is_dir() else [place]:
            with contextlib.suppress(FileNotFoundError):
                about = path.lstat()
                found[str(path)] = (about.st_ino, about.st_size, about.st_mtime_ns)
    return found


def _dump() -> bytes | None:
    """Return the accounting database; None where there is none."""
    if not Path("/etc/slurm/slurmdbd.conf").is_file():
        return None
    options = ("--single-transaction", "--hex-blob", "--databases")
    done = run("mariadb-dump", *options, DATABASE, timeout=600)
    if done.code:
        raise NodeError(f"the accounting database cannot be saved: {done.said}")
    return done.out.encode()


def _load(dump: bytes) -> None:
    done = run("mariadb", stdin=dump.decode(), timeout=600)
    if done.code:
        raise NodeError(f"the accounting database cannot be restored: {done.said}")
