"""Kernel NFS, control groups, shaped links and wrong clocks, with the files of our own roles."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers import REPOSITORY
from tests.lab.cluster import Cluster
from tests.lab.commands import wait_until
from tests.vm.prepared import GPUS, inventory, playbook


def submitted(cluster: Cluster, *options: str, script: str) -> dict[str, str]:
    """Run a batch script on n1 to its end; what SLURM says of it, and its output as `Output`."""
    told = f"sbatch --parsable --output=/shared/work/%j.txt {' '.join(options)} /dev/stdin"
    line = f"cd /shared/work && {told}"
    done = cluster.lab.ssh(cluster.head, line, stdin=f"#!/bin/bash\n{script}\n")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()

    def state() -> dict[str, str]:
        text = cluster.on_head(f"scontrol --oneliner show job {job}").stdout
        return dict(re.findall(r"(\w+)=(\S+)", text))

    over = ("COMPLETED", "FAILED", "OUT_OF_MEMORY", "TIMEOUT", "CANCELLED", "NODE_FAIL")
    wait_until(lambda: state().get("JobState") in over, f"job {job} to end", timeout=120, every=1)
    return {**state(), "Output": cluster.on_head(f"cat /shared/work/{job}.txt").stdout}


def test_the_shared_folder_is_nfs_4_2_of_the_kernel(guests: Cluster) -> None:
    lab = guests.lab
    assert lab.ssh("n1", "echo seen > /shared/work/from-n1").returncode == 0
    assert guests.on_head("cat /shared/work/from-n1").stdout == "seen\n"
    mounted = lab.ssh("n1", "grep ' /shared nfs4 ' /proc/mounts").stdout
    assert "vers=4.2" in mounted and ",hard," in mounted, mounted


def test_root_of_a_node_is_nobody_on_the_shared_folder(guests: Cluster) -> None:
    assert guests.on_head("sudo install -m 0644 /dev/null /shared/program").returncode == 0
    done = guests.lab.ssh("n1", "sudo dd if=/dev/zero of=/shared/program count=1")
    assert done.returncode != 0 and "Permission denied" in done.stderr


def test_a_job_over_its_memory_is_killed_with_its_whole_tree(guests: Cluster) -> None:
    eat = 'python3 -c "x = bytearray(400 << 20); print(len(x))"'
    job = submitted(guests, "--mem=100", script=f"setsid sleep 1013 & disown\n{eat}\nexit 0")
    assert job["JobState"] == "OUT_OF_MEMORY", job
    assert "419430400" not in job["Output"]
    assert guests.lab.ssh("n1", "pgrep -f 'sleep 1013'").stdout == ""


def test_a_jobs_orphans_end_with_it(guests: Cluster) -> None:
    job = submitted(guests, script="setsid sleep 1014 & disown\nexit 0")
    assert job["JobState"] == "COMPLETED", job
    gone = "pgrep -f 'sleep 1014'"
    wait_until(lambda: guests.lab.ssh("n1", gone).stdout == "", "the orphan to end", timeout=60)


def test_a_job_can_open_its_own_gpus_only(guests: Cluster) -> None:
    look = "for n in 0 1; do (: </dev/nvidia$n) 2>/dev/null && echo open $n; done; :"
    one = submitted(guests, "--gres=gpu:1", script=f"{look}\necho $CUDA_VISIBLE_DEVICES")
    assert one["Output"].split() == ["open", "0", "0"], one
    none = submitted(guests, script=look)
    assert none["Output"] == "", none
    both = submitted(guests, f"--gres=gpu:{GPUS}", script=look)
    assert both["Output"].split() == ["open", "0", "open", "1"], both


def test_a_slow_link_is_slow_and_the_node_stays(guests: Cluster) -> None:
    lab = guests.lab
    shape = "sudo tc qdisc {} dev eth0 root netem delay 200ms"
    assert lab.ssh("n1", shape.format("add")).returncode == 0
    try:
        text = lab.ssh("n1", f"ping -c 3 -W 5 {lab.address('head')}").stdout
        fastest = re.search(r"= ([\d.]+)/", text)
        assert fastest and float(fastest[1]) >= 200, text
        assert submitted(guests, script="cat /shared/work/from-n1; true")["JobState"] == "COMPLETED"
    finally:
        lab.ssh("n1", shape.format("del"))


def test_a_host_with_a_wrong_clock_is_refused(guests: Cluster, tmp_path: Path) -> None:
    lab = guests.lab
    validate, hosts = REPOSITORY / "ansible/validate.yml", inventory(guests, tmp_path)
    right = playbook(validate, hosts, timeout=200)
    assert right.returncode == 0, right.stdout[-3000:]
    lab.ssh("n1", "sudo date --set '+1 hour'")
    try:
        wrong = playbook(validate, hosts, timeout=200)
    finally:
        lab.ssh("n1", "sudo date --set '-1 hour'")
    assert wrong.returncode != 0
    assert "clock" in wrong.stdout, wrong.stdout[-3000:]
