"""The summary tells what a cluster is, who was left out, and what to type next."""

from __future__ import annotations

import shlex
from typing import Any

from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.status import NodeStatus
from dto.cluster.summary import Facts, duration, next_commands, render_run, render_summary


def record(**more: Any) -> DtoCluster:
    raw = {
        "name": "lab",
        "ssh": {"user": "ubuntu", "key": "/home/me/my key"},
        "head": {"name": "head", "address": "10.0.0.1"},
        "nodes": [
            {"name": "n1", "address": "10.0.0.2", "gpus": 8, "gpu_type": "h100"},
            {"name": "n2", "address": "10.0.0.3"},
        ],
    }
    return parse_record({**raw, **more}, "test")


def node(name: str, state: str = "idle", reason: str = "") -> NodeStatus:
    return NodeStatus(name, state, "", ("all",), 4, 0, 1000, 0, 0, reason)


def test_the_summary_says_what_there_is_and_what_to_type() -> None:
    facts = Facts(
        left_out={"n2": "cannot reach 10.0.0.3: no route to host"},
        states={"n1": node("n1", "drain", "dto: shared folder")},
        verified=["all-reduce n1 n2: 1.20 GB/s"],
    )
    assert render_summary(record(), facts) == """\
cluster     lab (2 nodes)
head        head (10.0.0.1)
partitions  gpu, cpu, all*
shared      /shared (nfs, served by the head)

host  address   role  gpus      state
head  10.0.0.1  head  -         -
n1    10.0.0.2  gpu   8 x h100  drain (dto: shared folder)
n2    10.0.0.3  cpu   -         left out

left out (run it again when they answer)
  n2: cannot reach 10.0.0.3: no route to host

verified
  all-reduce n1 n2: 1.20 GB/s

next
  ssh -i '/home/me/my key' ubuntu@10.0.0.1
  cd ~/dto && scripts/submit_job.sh -N 2 examples/simple_net.py
"""


def test_the_way_to_the_head_is_spelt_out() -> None:
    ssh = {"user": "me", "port": 2222, "bastion": "jump@203.0.113.9"}
    said = next_commands(record(ssh=ssh, nodes=[]))
    assert said == [
        "ssh -p 2222 -J jump@203.0.113.9 me@10.0.0.1",
        "cd ~/dto && scripts/submit_job.sh -N 1 examples/simple_net.py",
    ]
    head = {"name": "head", "address": "10.0.0.1", "public_address": "198.51.100.7"}
    assert next_commands(record(ssh=ssh, head=head))[0] == "ssh -p 2222 me@198.51.100.7"


def test_a_bastion_is_given_the_key_and_the_user_that_the_hosts_have() -> None:
    ssh = {"user": "me", "key": "/home/me/a key", "bastion": "203.0.113.9:2200"}
    [words, _] = [shlex.split(line) for line in next_commands(record(ssh=ssh, nodes=[]))]
    assert words[:3] == ["ssh", "-i", "/home/me/a key"] and words[-1] == "me@10.0.0.1"
    through = words[words.index("-o") + 1].removeprefix("ProxyCommand=")
    assert shlex.split(through) == ["ssh", "-i", "/home/me/a key", "-p", "2200",
                                    "-W", "[%h]:%p", "me@203.0.113.9"]  # fmt: skip
    keyless = {"user": "me", "bastion": "203.0.113.9"}
    assert next_commands(record(ssh=keyless, nodes=[]))[0] == "ssh -J me@203.0.113.9 me@10.0.0.1"


def test_without_torch_the_first_job_needs_none() -> None:
    assert next_commands(record(software={"torch": "none"}))[1] == "srun -N 2 hostname"


def test_a_cluster_of_this_machine_needs_no_ssh() -> None:
    here = {"name": "solo", "address": "10.0.0.1", "local": True}
    said = next_commands(record(head=here, nodes=[here], provider="local"))
    assert said == ["cd ~/dto && scripts/submit_job.sh -N 1 examples/simple_net.py"]
    assert "head, node" in render_summary(record(head=here, nodes=[here]), Facts())


def test_a_run_counts_what_it_changed_on_each_host() -> None:
    text = render_run({"head": 12, "n1": 0}, 200.4, "/x/setup.log", False)
    assert text.splitlines() == [
        "host  changed",
        "head  changed=12",
        "n1    changed=0",
        "done in 3 min 20 s; the log is /x/setup.log",
    ]
    assert "changed nothing" in render_run({}, 1, "", True)
    assert duration(59.6) == "1 min 0 s"
