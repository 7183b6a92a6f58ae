"""Two guests with what our roles put on hosts, and SLURM running on them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from dto.cluster.ansible_inventory import Operator, write_inventory
from dto.cluster.inventory import parse_record
from dto.cluster.wheel import pack_node_programs
from tests.helpers import REPOSITORY
from tests.lab.cluster import Cluster
from tests.lab.commands import run
from tests.vm.guest import VmLab

GPUS = 2
_ANSIBLE = REPOSITORY / "ansible"
# Unpacks stdin over the root, and starts what the roles start.
_INSTALL = """
set -e
sudo tar -C / --no-same-owner -xpf -
sudo chown munge:munge /etc/munge/munge.key && sudo chmod 400 /etc/munge/munge.key
sudo mkdir -p /shared /var/log/slurm /var/lib/slurm/slurmd /var/lib/slurm/slurmctld
sudo chown -R slurm:slurm /var/log/slurm /var/lib/slurm
sudo systemctl daemon-reload
"""
_START_HEAD = """
sudo install -d -m 0755 -o admin /shared/work
sudo systemctl start munge nfs-server slurmctld
sudo exportfs -r
"""
_START_NODE = """
sudo systemctl start munge shared.automount
sudo systemctl start slurmd
"""
# The real gate's checks take longer here than the limits that it has for real machines; what the
# node tells slurmd of itself is the gate's own word.
_GATE = """
[Service]
Type=oneshot
RemainAfterExit=yes
Environment=PYTHONPATH=/usr/local/lib/dto/node.pyz
ExecStart=/usr/bin/python3 -c "from pathlib import Path; from dto.cluster.node import facts, gate; \
 gate.write_options(facts.read_node(), Path('/run/dto'))"
"""


def record(cluster: Cluster) -> dict[str, object]:
    """The lab's record as real machines have it: the head serves NFS, cgroups fence jobs in."""
    slurm = {"settings": {"HealthCheckInterval": "0"}}
    software = {"horovod": False, "torch": "none"}
    return {**cluster.record(), "shared": {"kind": "nfs"}, "slurm": slurm, "software": software}


def inventory(cluster: Cluster, folder: Path) -> Path:
    path = folder / "inventory.json"
    known = Operator(known_hosts=cluster.lab.known_hosts)
    write_inventory(path, parse_record(record(cluster), "the guests"), known)
    return path


def playbook(
    path: Path, hosts: Path, *, timeout: float, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run one of our playbooks with our settings of Ansible."""
    argv = [sys.executable, "-m", "ansible", "playbook", "-i", str(hosts), str(path),
            "--extra-vars", json.dumps(variables)]  # fmt: skip
    filters = [_ANSIBLE / "filter_plugins", *_ANSIBLE.glob("roles/*/filter_plugins")]
    config = {
        "ANSIBLE_CONFIG": str(_ANSIBLE / "ansible.cfg"), "HOME": str(hosts.parent),
        "ANSIBLE_FILTER_PLUGINS": os.pathsep.join(map(str, filters)),
    }  # fmt: skip
    return run(*argv, check=False, timeout=timeout, env=config)


def prepare(lab: VmLab, folder: Path) -> Cluster:
    """Render what the roles would, bring it, start it."""
    cluster = Cluster(lab, folder / "operator", name="vm", head="head", workers=("n1",))
    out = folder / "rendered"
    done = playbook(
        Path(__file__).with_name("render.yml"), inventory(cluster, folder), timeout=120,
        role_folder=str(_ANSIBLE / "roles"), out=str(out), ansible_connection="local",
        ansible_become="false", ansible_python_interpreter=sys.executable,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    (out / "head/etc/slurm/gres.conf").write_text("Include /etc/dto/gres.conf\n")
    key = secrets.token_bytes(128)
    for name, start in (("head", _START_HEAD), ("n1", _START_NODE)):
        root = out / name
        (root / "etc/munge").mkdir()
        (root / "etc/munge/munge.key").write_bytes(key)
        pack_node_programs(root / "usr/local/lib/dto")
        names = [f"{lab.address(host)} {host}\n" for host in lab.hosts]
        (root / "etc/hosts").write_text("".join(["127.0.0.1 localhost\n", *names]))
        gate = root / "etc/systemd/system/dto-gate.service"
        gate.parent.mkdir(parents=True, exist_ok=True)
        gate.write_text(_GATE)
        _install(lab, name, root, start)
    return cluster


def _install(lab: VmLab, name: str, root: Path, start: str) -> None:
    archive = root.with_suffix(".tar")
    run("tar", "-C", str(root), "--mode=u+rwX,go+rX", "-cf", str(archive), ".")
    with archive.open("rb") as file:
        done = subprocess.run([*lab.ssh_command(name), _INSTALL + start], stdin=file, text=True,
                              capture_output=True, timeout=240, env=dict(os.environ))  # fmt: skip
    if done.returncode:
        state = lab.ssh(name, "systemctl --failed; sudo journalctl -b --no-pager | tail -40")
        raise AssertionError(f"{name}: {done.stdout}{done.stderr}\n{state.stdout}")
