"""What playbooks compute on the operator's machine: verdicts on hosts, names of units, archives."""

from __future__ import annotations

import base64
import gzip
import io
import os
import tarfile
from pathlib import Path

SUPPORTED = {("debian", "12"), ("debian", "13"), ("ubuntu", "24.04"), ("ubuntu", "22.04")}
GIB = 1024**3


def unit_name(path: str, kind: str = "mount") -> str:
    """Return the name systemd wants for the unit of a path, as systemd-escape --path does."""
    parts = [part for part in path.split("/") if part]
    text = "/".join(parts)
    out = ""
    for place, char in enumerate(text):
        if char == "/":
            out += "-"
        elif (char.isalnum() and char.isascii()) or char in ":_" or (char == "." and place):
            out += char
        else:
            out += "".join(f"\\x{byte:02x}" for byte in char.encode())
    return f"{out or '-'}.{kind}"


def folder_archive(folder: str) -> str:
    """Return a folder as tar.gz in base64: the same for the same files."""
    root = Path(folder)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if path.is_dir() or set(name.parts) & {"__pycache__", ".git", "data", "runs"}:
                continue
            entry = tarfile.TarInfo(str(name))
            if path.is_symlink() or not path.is_file():
                continue
            entry.size = path.stat().st_size
            entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return base64.b64encode(gzip.compress(raw.getvalue(), mtime=0)).decode()


def problems(hostvars, name: str, rules: dict) -> list:
    """Return what forbids to set a host up, one sentence each, each with what to do.

    `hosts` are those of this run; the head is looked at also when it is not among them.
    """
    seen = {host: _facts(hostvars, host) for host in {*rules["hosts"], rules["head"], name}}
    mine = seen[name]
    found = []
    if name != rules["head"] and not seen[rules["head"]]:
        found.append(f"{rules['head']}, the head, could not be looked at: nothing was changed")
    if not mine:
        return found + _unseen(hostvars[name], rules)
    found += _system(mine) + _place(mine, hostvars[name], rules) + _resources(mine, rules)
    found += _twins(name, hostvars, seen)
    head = seen[rules["head"]]
    if head and head is not mine:
        found += _against_head(mine, head, rules)
    return found


def remarks(hostvars, name: str, rules: dict) -> list:
    """Return what is worth knowing and forbids nothing."""
    facts = _facts(hostvars, name)
    if not facts:
        return []
    found = []
    if (facts["release"]["id"], facts["release"]["version"]) == ("ubuntu", "22.04"):
        found.append("Ubuntu 22.04 has Slurm 21.08: nodes are static, a join restarts slurmctld")
    others = {host: _facts(hostvars, host) for host in rules["hosts"] if host != name}
    same = [h for h, f in others.items() if f and f["machine_id"] == facts["machine_id"]]
    if same and facts["machine_id"] and not facts["container"]:
        found.append(
            f"has the machine-id of {', '.join(sorted(same))} (cloned disks?): "
            "rm /etc/machine-id && systemd-machine-id-setup, then reboot"
        )
    return found


def _facts(hostvars, host: str) -> dict:
    known = hostvars[host] if host in hostvars else {}
    return (known.get("ansible_facts") or {}).get("dto_host") or {}


def _unseen(known, rules: dict) -> list:
    """Say why a host that answers could not be looked at."""
    first = known.get("validate_python") or {}
    if "no-python" in (first.get("stdout") or ""):
        text = dict(line.split("=", 1) for line in first["stdout"].splitlines() if "=" in line)
        system = tuple(text.get(key, "").strip().strip('"') for key in ("ID", "VERSION_ID"))
        if system not in SUPPORTED:
            return [_unsupported(" ".join(system))]
        return ["python3 is missing: apt-get install python3"] if rules["is_check"] else []
    words = " ".join(str((known.get("validate_probe") or {}).get("msg", "it said nothing")).split())
    user = known.get("ansible_user") or "the login user"
    if "sudo" in words or "password" in words or "privilege" in words.lower():
        return [
            f"{user} may not become root without a password: add `{user} ALL=(ALL) NOPASSWD:ALL` "
            "to /etc/sudoers.d, or log in as root"
        ]
    return [f"could not be looked at: {words}"]


def _unsupported(name: str) -> str:
    return f"runs {name}: use Debian 12 or 13, or Ubuntu 24.04 or 22.04"


def _system(facts: dict) -> list:
    found = []
    if (facts["release"]["id"], facts["release"]["version"]) not in SUPPORTED:
        found.append(_unsupported(facts["release"]["name"]))
    if tuple(facts["python"][:2]) < (3, 10):
        version = ".".join(str(part) for part in facts["python"])
        found.append(f"its python3 is {version}: 3.10 is needed, upgrade the system")
    if not facts["is_root"]:
        found.append("the login user does not become root: allow it sudo without a password")
    if facts["init"] != "systemd":
        found.append(f"its first process is {facts['init']}, not systemd: boot it with systemd")
    return found


def _place(facts: dict, known, rules: dict) -> list:
    found = []
    if not facts["has_address"]:
        found.append(
            f"no interface of it has the address {known['dto_address']}: "
            "correct the host's address in the record"
        )
    if rules["proctrack"].endswith("cgroup") and facts["cgroup"] != "v2":
        found.append(
            f"has cgroup {facts['cgroup']}, and proctrack/cgroup needs v2: boot it with "
            "systemd.unified_cgroup_hierarchy=1, or set slurm.proctrack to linuxproc"
        )
    return found + [f"{clash}: change one of them" for clash in facts["user_clashes"]]


def _resources(facts: dict, rules: dict) -> list:
    found = []
    if abs(facts["clock_skew"]) > rules["max_clock_skew"]:
        way = "ahead of" if facts["clock_skew"] > 0 else "behind"
        found.append(
            f"its clock is {abs(facts['clock_skew']):.0f} s {way} this machine's (allowed: "
            f"{rules['max_clock_skew']:g}): set it, for example by `timedatectl set-ntp true`"
        )
    for folder, free in sorted(facts["free_bytes"].items()):
        if free < rules["min_free_gib"] * GIB:
            found.append(
                f"{free / GIB:.1f} GiB are free under {folder}, {rules['min_free_gib']:g} are "
                "needed: free some space there"
            )
    return found


def _twins(name: str, hostvars, seen: dict) -> list:
    """Say which other entries of the record are this very machine, or claim to be."""
    found = []
    for other, facts in sorted(seen.items()):
        if other == name:
            continue
        if facts and facts["boot_id"] == seen[name]["boot_id"]:
            found.append(f"is the same machine as {other}: take one of them out of the record")
        elif hostvars[other].get("dto_address") == hostvars[name].get("dto_address"):
            found.append(f"has the address of {other}: correct one of them in the record")
    return found


def _against_head(facts: dict, head: dict, rules: dict) -> list:
    found = []
    mine, its = (f"{f['release']['id']} {f['release']['version']}" for f in (facts, head))
    is_supported = (facts["release"]["id"], facts["release"]["version"]) in SUPPORTED
    if mine != its and is_supported:
        found.append(f"runs {mine} and the head {its}: all hosts of a cluster need one release")
    if facts["architecture"] != head["architecture"]:
        found.append(
            f"is {facts['architecture']} and the head {head['architecture']}: "
            "all hosts of a cluster need one architecture"
        )
    skew = facts["clock_skew"] - head["clock_skew"]
    is_said = abs(facts["clock_skew"]) > rules["max_clock_skew"]
    if abs(skew) > rules["max_clock_skew"] and not is_said:
        found.append(f"its clock is {abs(skew):.0f} s off the head's: set both, by chrony or NTP")
    return found


def missing_wheels(folder: str, found: list) -> list:
    """Return the names of a folder's packages that are not among the files `found` elsewhere."""
    there = {(os.path.basename(file["path"]), file["size"]) for file in found}
    here = [path for path in sorted(Path(folder).iterdir()) if path.is_file()]
    packages = [path for path in here if path.name.endswith((".whl", ".tar.gz"))]
    return [path.name for path in packages if (path.name, path.stat().st_size) not in there]


def build_host(hostvars, hosts: list, head: str) -> str:
    """Return the first host whose GPU works, else the head."""
    for host in hosts:
        facts = _facts(hostvars, host)
        if facts.get("pci_gpus") and facts.get("nvidia_driver"):
            return str(host)
    return head


class FilterModule:
    def filters(self) -> dict:
        return {
            "dto_unit_name": unit_name,
            "dto_folder_archive": folder_archive,
            "dto_missing_wheels": missing_wheels,
            "dto_build_host": build_host,
            "dto_problems": problems,
            "dto_remarks": remarks,
        }
