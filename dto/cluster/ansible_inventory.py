"""What Ansible is told of a cluster: one inventory, made of the record and nothing else.

`python -m dto.cluster.ansible_inventory cluster.yaml --list` prints it as Ansible takes it from a
program; `write_inventory` writes it as a file.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dto import __version__
from dto.cluster import words
from dto.cluster.cloud.running import is_enrolled
from dto.cluster.guarded import guard_variable
from dto.cluster.inventory import DtoCluster
from dto.cluster.inventory_hosts import Host, Node
from dto.cluster.sources import load_record
from dto.errors import ConfigError, DtoError, UsageError
from dto.runs.files import write_atomic

PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Operator:
    """Files on the machine that Ansible runs on; what is None gives no variable."""

    known_hosts: Path | None = None
    wheel: Path | None = None
    tree: Path | None = None
    node_pyz: Path | None = None
    record: Path | None = None
    """The record as the head shall keep it (`seen_from_head`)."""

    def variables(self) -> dict[str, str]:
        paths = {
            "wheel": self.wheel,
            "tree": self.tree,
            "node_pyz": self.node_pyz,
            "record": self.record,
        }
        return {f"dto_{name}": str(path) for name, path in paths.items() if path is not None}


def ansible_inventory(record: DtoCluster, operator: Operator | None = None) -> dict[str, Any]:
    """Return the groups head and nodes (together: cluster) in the form of `--list`."""
    operator = operator or Operator()
    hosts = {host.name: host_variables(record, host, operator) for host in record.members}
    return {
        "_meta": {"hostvars": hosts},
        "all": {"children": ["cluster"]},
        "cluster": {"children": ["head", "nodes"], "vars": cluster_variables(record, operator)},
        "head": {"hosts": [record.head.name]},
        "nodes": {"hosts": [node.name for node in record.nodes]},
    }


def cluster_variables(record: DtoCluster, operator: Operator) -> dict[str, Any]:
    """Return what all hosts share; the keys are the interface of our roles."""
    return {
        "dto_cluster_name": record.name,
        "dto_version": __version__,
        "dto_provider": record.provider,
        "dto_head_name": record.head.name,
        "dto_head_address": record.head.address,
        "dto_members": [{"name": host.name, "address": host.address} for host in record.members],
        "dto_users": [user.model_dump(mode="json") for user in record.users],
        "dto_login_user": record.ssh.user,
        "dto_shared": record.shared.model_dump(mode="json"),
        "dto_slurm": record.slurm.model_dump(mode="json"),
        "dto_partitions": [
            {
                "name": partition.name,
                "feature": partition.feature,
                "default": partition.default,
                "max_time": partition.max_time,
            }
            for partition in record.partitions()
        ],
        "dto_monitoring": record.monitoring.model_dump(mode="json"),
        "dto_software": _software(record),
        "dto_guard": guard_variable(record),
        "dto_enrols": is_enrolled(record),
        **operator.variables(),
    }


def _software(record: DtoCluster) -> dict[str, Any]:
    values = record.software.model_dump(mode="json")
    wheels = record.software.wheels
    return {**values, "wheels": os.path.expanduser(wheels) if wheels else None}


def host_variables(record: DtoCluster, host: Host, operator: Operator) -> dict[str, Any]:
    """Return what one host is, and how Ansible gets there."""
    node = host if isinstance(host, Node) else None
    return {
        "dto_name": host.name,
        "dto_address": host.address,
        "dto_group": node.group if node else "",
        "dto_gpus": node.gpus if node else 0,
        "dto_gpu_type": node.gpu_type if node else "gpu",
        "dto_gpu_files": list(node.device_files) if node else [],
        "dto_features": list(dict.fromkeys([node.group, *node.features])) if node else [],
        "dto_spot": node.spot if node else False,
        "ansible_python_interpreter": PYTHON,
        **_connection(record, host, operator),
    }


def _connection(record: DtoCluster, host: Host, operator: Operator) -> dict[str, Any]:
    if host.local:
        return {"ansible_connection": "local", "ansible_host": host.address}
    key = os.path.expanduser(record.ssh.key) if record.ssh.key else None
    return {
        "ansible_host": record.ssh_address(host),
        "ansible_port": record.ssh.port,
        "ansible_user": record.ssh.user,
        "ansible_ssh_common_args": ssh_arguments(record, host, operator.known_hosts, key),
        # What is large on the way there are wheels, which are compressed.
        "mitogen_ssh_compression": False,
        **({"ansible_ssh_private_key_file": key.replace("%", "%%")} if key else {}),
    }


def ssh_arguments(record: DtoCluster, host: Host, known_hosts: Path | None, key: str | None) -> str:
    """Return ssh options, quoted: only the cluster's own known_hosts counts, nothing is asked.

    The bastion is a ProxyCommand, for ssh hands neither key nor known_hosts on to a ProxyJump.
    """
    options = _trust(known_hosts, key, percent="%%")
    if record.needs_bastion(host) and record.ssh.way_in:
        user, place, port = words.jump_parts(record.ssh.way_in)
        inner = _trust(known_hosts, key, percent="%%%%")
        inner += ["-o", f'IdentityFile="{key.replace("%", "%%%%")}"'] if key else []
        jump = ["ssh", *inner]
        jump += ["-p", str(port or 22), "-l", str(user), "-W", "[%h]:%p", place]
        options += ["-o", f"ProxyCommand={shlex.join(jump)}"]
    return shlex.join(options)


def _trust(known_hosts: Path | None, key: str | None, percent: str) -> list[str]:
    """Options by which a host must be known; `percent` is how a literal % is written."""
    options = ["StrictHostKeyChecking=yes", "BatchMode=yes"]
    if known_hosts is not None:
        path = str(known_hosts)
        if '"' in path or "\n" in path:
            raise ConfigError(f"ssh cannot use the path {path!r}; set XDG_STATE_HOME to another")
        options += [f'UserKnownHostsFile="{path.replace("%", percent)}"']
        options += ["GlobalKnownHostsFile=/dev/null"]
    if key:
        options.append("IdentitiesOnly=yes")
    return [word for option in options for word in ("-o", option)]


def as_file(inventory: dict[str, Any]) -> dict[str, Any]:
    """Return an inventory in the form that Ansible reads from a YAML or JSON file."""
    hosts = inventory["_meta"]["hostvars"]
    groups = {
        name: {"hosts": {host: hosts[host] for host in inventory[name]["hosts"]}}
        for name in ("head", "nodes")
    }
    cluster = {"vars": inventory["cluster"]["vars"], "children": groups}
    return {"all": {"children": {"cluster": cluster}}}


def write_inventory(path: Path, record: DtoCluster, operator: Operator | None = None) -> None:
    """Write the inventory as a file for `ansible-playbook -i`; its name must end in .json."""
    text = json.dumps(as_file(ansible_inventory(record, operator)), indent=1, ensure_ascii=False)
    write_atomic(path, text + "\n")


def main(arguments: Sequence[str]) -> int:
    """Answer Ansible: RECORD --list, or RECORD --host NAME."""
    try:
        path, *rest = arguments or ("",)
        is_host = len(rest) == 2 and rest[0] == "--host"
        if not path or (rest not in (["--list"], []) and not is_host):
            raise UsageError("use: python -m dto.cluster.ansible_inventory RECORD --list")
        known_hosts = os.environ.get("DTO_KNOWN_HOSTS")
        operator = Operator(known_hosts=Path(known_hosts) if known_hosts else None)
        inventory = ansible_inventory(load_record(Path(path)), operator)
        found = inventory["_meta"]["hostvars"].get(rest[1], {}) if is_host else inventory
        print(json.dumps(found, indent=1))
        return 0
    except DtoError as error:
        print(f"dto: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
