"""Where a cluster's record comes from: a file, Terraform, flags, or this machine itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dto.cluster import words
from dto.cluster.cloud.frames import gist
from dto.cluster.inventory import DtoCluster, parse_record
from dto.config.yaml_text import read_yaml
from dto.errors import ConfigError, UsageError

OUTPUT = "dto_cluster"
"""The name of the Terraform output, and of the key that a file may wrap the record in."""
TERRAFORM_SECONDS = 120.0


def load_record(path: Path) -> DtoCluster:
    """Read a record from YAML or JSON; also as Terraform's output, with or without its `value`.

    Relative paths on the operator's machine (ssh.key, software.wheels) start at the file's folder.
    """
    raw = _read_json(path) if path.suffix == ".json" else read_yaml(path)
    if not raw:
        raise ConfigError(f"{path} is empty; it must hold a cluster's record")
    return parse_record(_absolute(_unwrapped(raw), path.absolute().parent), str(path))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {str(error) or 'nested too deeply'}") from None


def _unwrapped(raw: Any) -> Any:
    """Take the record out of `dto_cluster: ...` and out of Terraform's {sensitive, type, value}."""
    if isinstance(raw, dict) and OUTPUT in raw:
        raw = raw[OUTPUT]
    if isinstance(raw, dict) and "value" in raw and raw.keys() <= {"sensitive", "type", "value"}:
        raw = raw["value"]
    return raw


def _absolute(raw: Any, base: Path) -> Any:
    """Make the operator's own paths absolute without following links; `~` stays."""
    if not isinstance(raw, dict):
        return raw
    for part, key in (("ssh", "key"), ("software", "wheels")):
        section = raw.get(part)
        path = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(path, str) and _is_relative(path):
            raw = {**raw, part: {**section, key: os.path.normpath(base / path)}}
    return raw


def _is_relative(path: str) -> bool:
    return bool(path) and not path.startswith(("/", "~", "-----BEGIN"))


def from_terraform(folder: Path, *, timeout_seconds: float = TERRAFORM_SECONDS) -> DtoCluster:
    """Ask Terraform for the output `dto_cluster` of what was applied in a folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name the one where you ran `terraform apply`")
    command = ["terraform", f"-chdir={folder}", "output", "-no-color", "-json"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
        )
    except FileNotFoundError:
        raise ConfigError("terraform is not installed, or not on PATH") from None
    except OSError as error:
        raise ConfigError(f"terraform cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        text = f"`terraform output` in {folder} gave no answer in {timeout_seconds:g} s"
        raise ConfigError(f"{text}; is its state reachable?") from None
    if done.returncode != 0:
        raise ConfigError(f"`terraform output` in {folder}: {gist(done.stderr)}")
    return _from_outputs(done.stdout, folder)


def _from_outputs(text: str, folder: Path) -> DtoCluster:
    try:
        outputs = json.loads(text)
    except ValueError:
        raise ConfigError(f"`terraform output` in {folder} printed no JSON") from None
    if not isinstance(outputs, dict) or not outputs:
        raise ConfigError(f"nothing was applied in {folder}; run `terraform apply` there first")
    if OUTPUT not in outputs:
        known = ", ".join(sorted(outputs)) or "none"
        raise ConfigError(
            f"no output {OUTPUT!r} in {folder} (outputs: {known}); run `terraform apply` there"
        )
    raw = _absolute(_unwrapped(outputs), folder.absolute())
    if raw is None:
        raise ConfigError(f"output {OUTPUT!r} in {folder} is null; run `terraform apply` there")
    return parse_record(raw, f"terraform output {OUTPUT} in {folder}")


def from_flags(
    name: str,
    master: str,
    workers: Iterable[str] | str = (),
    *,
    names: Mapping[str, str] | None = None,
    gpus: Mapping[str, int] | None = None,
    **settings: Any,
) -> DtoCluster:
    """Return the record that `--cluster-name N --master-ip A --worker-ips "B C"` mean."""
    said = flag_values(name, master, workers, names=names, gpus=gpus, **settings)
    return parse_record(said, "command line")


def flag_values(
    name: str,
    master: str,
    workers: Iterable[str] | str = (),
    *,
    names: Mapping[str, str] | None = None,
    gpus: Mapping[str, int] | None = None,
    user: str | None = None,
    port: int | None = None,
    key: Path | str | None = None,
    bastion: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what flags say and nothing else, unchecked: `draft.merge` takes it, too.

    `names` and `gpus` are what is known of an address already (found there, or in an earlier
    record); the others are called <cluster>-head, <cluster>-001 ... `more` are further keys.
    """
    heads, places = split_addresses(master), split_addresses(workers)
    if len(heads) != 1:
        raise UsageError(f"--master-ip takes one address, not {master!r}")
    known = {words.same_address(place): found for place, found in (names or {}).items()}
    counts = {words.same_address(place): found for place, found in (gpus or {}).items()}
    taken = {found.lower() for found in known.values()}
    nodes: list[dict[str, Any]] = []
    for place in places:
        same = words.same_address(place)
        found = known.get(same) or next_name(name, taken)
        taken.add(found.lower())
        nodes.append({"name": found, "address": place})
        if same in counts:
            nodes[-1]["gpus"] = counts[same]
    head = known.get(words.same_address(heads[0])) or f"{name}-head"
    ssh = {"user": user, "port": port, "key": _absolute_key(key), "bastion": bastion}
    ssh = {key: value for key, value in ssh.items() if value is not None}
    said = {**(more or {}), "name": name, "head": {"name": head, "address": heads[0]}}
    return {**said, **({"ssh": ssh} if ssh else {}), **({"nodes": nodes} if nodes else {})}


def _absolute_key(key: Path | str | None) -> str | None:
    if key is None:
        return None
    text = str(key)
    return os.path.abspath(text) if _is_relative(text) else text


def split_addresses(given: Iterable[str] | str) -> list[str]:
    """Split at commas and spaces; one address given twice is one host."""
    text = given if isinstance(given, str) else " ".join(given)
    return list(dict.fromkeys(word for word in re.split(r"[\s,]+", text) if word))


def next_name(cluster: str, taken: Iterable[str]) -> str:
    """Return the first of <cluster>-001, -002 ... that nobody has."""
    used = {name.lower() for name in taken}
    number = 1
    while f"{cluster}-{number:03d}" in used:
        number += 1
    return f"{cluster}-{number:03d}"


def local_record(name: str, hostname: str, address: str, **more: Any) -> DtoCluster:
    """Return the record of a cluster of this machine alone: the head, and a node too."""
    return parse_record(local_values(name, hostname, address, **more), "this machine")


def local_values(
    name: str,
    hostname: str,
    address: str,
    *,
    gpus: int | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what `--local` says of this machine; its shared filesystem is a folder of its own."""
    head = {"name": hostname.partition(".")[0], "address": address, "local": True}
    node = {**head, "gpus": gpus} if gpus is not None else head
    said = {"shared": {"kind": "existing"}, **(more or {}), "name": name, "provider": "local"}
    return {**said, "head": head, "nodes": [node]}
