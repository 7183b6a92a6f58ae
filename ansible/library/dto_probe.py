"""What setting up a cluster must know of a host, read in one go and without changing anything."""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import shutil
import socket
import sys
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
---
module: dto_probe
short_description: Reads what setting up a cluster must know of a host
description:
  - Returns facts under C(dto_host). It changes nothing and needs only Python's library.
options:
  address: {description: The host's address in the cluster., type: str, default: ""}
  sent_at: {description: The operator's clock when the task began., type: float, default: 0}
  folders: {description: Where free space is measured., type: list, elements: path, default: []}
  users: {description: The cluster's users., type: list, elements: dict, default: []}
"""

EXAMPLES = """
- name: Read the host
  dto_probe:
    address: 10.0.0.11
    folders: [/, /var]
"""

NVIDIA = "0x10de"
AMAZON = "0x1d0f"
EFA_DEVICES = ("0xefa0", "0xefa1", "0xefa2", "0xefa3")


def read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def release(text: str) -> dict:
    """Return id, version and codename out of the text of /etc/os-release."""
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    words = {key: value.strip().strip("\"'") for key, value in pairs.items()}
    return {
        "id": words.get("ID", ""),
        "version": words.get("VERSION_ID", ""),
        "codename": words.get("VERSION_CODENAME", ""),
        "name": words.get("PRETTY_NAME", words.get("ID", "an unknown system")),
    }


def cgroup_version(mounts: str) -> str:
    """Return v2, hybrid or v1 out of the text of /proc/mounts."""
    kinds = {line.split()[1]: line.split()[2] for line in mounts.splitlines() if " cgroup" in line}
    if kinds.get("/sys/fs/cgroup") == "cgroup2":
        return "v2"
    return "hybrid" if "cgroup2" in kinds.values() else "v1"


def pci(root: str = "/sys/bus/pci/devices") -> dict:
    """Count NVIDIA's display controllers and switches, and Amazon's EFA cards."""
    found = {"gpus": 0, "nvswitches": 0, "efa": 0}
    with contextlib.suppress(OSError):
        for device in sorted(os.listdir(root)):
            vendor, kind, model = (
                read(f"{root}/{device}/{name}") for name in ("vendor", "class", "device")
            )
            if vendor == NVIDIA and kind.startswith(("0x0300", "0x0302")):
                found["gpus"] += 1
            if vendor == NVIDIA and kind.startswith("0x0680"):
                found["nvswitches"] += 1
            if vendor == AMAZON and model in EFA_DEVICES:
                found["efa"] += 1
    return found


def infiniband(root: str = "/sys/class/infiniband") -> list:
    """Return the link layer of every port that is up: InfiniBand or Ethernet (RoCE)."""
    layers = set()
    with contextlib.suppress(OSError):
        for device in os.listdir(root):
            for port in os.listdir(f"{root}/{device}/ports"):
                place = f"{root}/{device}/ports/{port}"
                if "ACTIVE" in read(f"{place}/state"):
                    layers.add(read(f"{place}/link_layer"))
    return sorted(layers - {""})


def container() -> str:
    """Return the kind of container this is, or nothing; systemd leaves it for everybody to read."""
    kind = read("/run/systemd/container")
    if not kind:
        with contextlib.suppress(OSError):
            words = Path("/proc/1/environ").read_bytes().split(b"\0")
            kind = next((w[10:].decode() for w in words if w.startswith(b"container=")), "")
    return kind or ("docker" if os.path.exists("/.dockerenv") else "")


def owns(address: str) -> bool:
    """Tell whether an IP address is one of this host's; a name is not judged."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except OSError:
            continue
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return False
        return True
    return True


def units(folder: str = "/etc/systemd/system") -> list:
    """Return dto's own services that an earlier setup has described here."""
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith("dto-"))
    except OSError:
        return []


def free_bytes(folders: list) -> dict:
    """Return what is free under folders, or their nearest parents; a disk is named once."""
    found, disks = {}, set()
    for folder in folders:
        place = os.path.abspath(folder)
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        disk = os.stat(place).st_dev
        if disk not in disks:
            disks.add(disk)
            found[folder] = shutil.disk_usage(place).free
    return found


def clashes(users: list) -> list:
    """Return the users whose name or uid means something else on this host, in words."""
    names = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    owners = {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()}
    found = []
    for user in users:
        name, uid = user["name"], int(user["uid"])
        if names.get(name, uid) != uid:
            found.append(f"{name} has uid {names[name]} here and {uid} in the record")
        elif owners.get(uid, name) != name:
            found.append(f"uid {uid} is {owners[uid]} here and {name} in the record")
    return found


def memory_mib() -> int:
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def gather(address: str, sent_at: float, folders: list, users: list) -> dict:
    cards = pci()
    return {
        "release": release(read("/etc/os-release")),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": list(sys.version_info[:3]),
        "hostname": socket.gethostname(),
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "machine_id": read("/etc/machine-id"),
        "init": read("/proc/1/comm"),
        "container": container(),
        "cgroup": cgroup_version(read("/proc/mounts")),
        "clock_skew": round(time.time() - sent_at, 1) if sent_at else 0.0,
        "is_root": os.geteuid() == 0,
        "has_address": owns(address) if address else True,
        "free_bytes": free_bytes(folders),
        "user_clashes": clashes(users),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": memory_mib(),
        "pci_gpus": cards["gpus"],
        "nvswitches": cards["nvswitches"],
        "efa": cards["efa"],
        "infiniband": infiniband(),
        "nvidia_driver": read("/proc/driver/nvidia/version").split("\n")[0],
        "units": units(),
        "has_sshd": os.path.exists("/usr/sbin/sshd"),
        "has_apt": os.path.exists("/usr/bin/apt-get"),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "default": ""},
            "sent_at": {"type": "float", "default": 0.0},
            "folders": {"type": "list", "elements": "path", "default": []},
            "users": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    facts = gather(**module.params)
    module.exit_json(changed=False, ansible_facts={"dto_host": facts})


if __name__ == "__main__":
    main()
