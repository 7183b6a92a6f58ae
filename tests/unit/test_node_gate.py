"""The gate: what a host is judged by, and that it stays closed until the fault is gone."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from dto.cluster.node import gate, probes
from dto.cluster.node.errors import NodeError
from dto.cluster.node.facts import Node, memory_mib, node_line, read_node, slurmd_options

NODE = Node(
    "n1", "10.0.0.2", "head", "10.0.0.1", "/shared", group="gpu", gpus=2, gpu_type="h100",
    gpu_files=("/dev/null", "/dev/zero"), features=("gpu", "big"),
)  # fmt: skip


def hello(**facts: object) -> dict[str, object]:
    return {"skew": 0.1, "mark": "abc", **facts}


def test_a_host_like_the_head_passes():
    assert gate.judge_hello(NODE, hello(), lambda: "abc") == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"skew": 9.0}, "9.0 s behind the head's"),
        ({"skew": -9.0}, "9.0 s ahead of the head's"),
        ({"mark": "other"}, "/shared is not the folder that the head has"),
        ({"removed": True}, "taken out of the cluster"),
    ],
)
def test_a_host_that_differs_is_told_how(answer: dict[str, object], words: str):
    (problem,) = gate.judge_hello(NODE, hello(**answer), lambda: "abc")
    assert words in problem


def test_missing_devices_are_counted_and_named(tmp_path: Path):
    assert probes.gpu_files(NODE) == []
    absent = Node("n1", "a", "h", "b", "/s", gpus=2, gpu_files=("/dev/null", "/dev/no-such"))
    assert probes.gpu_files(absent) == ["1 of 2 GPUs: no /dev/no-such"]
    plain = tmp_path / "nvidia0"
    plain.write_text("no device")
    lying = Node("n1", "a", "h", "b", "/s", gpus=1, gpu_files=(str(plain),))
    assert probes.gpu_files(lying) == [f"0 of 1 GPUs: no {plain}"]


def test_a_shared_folder_is_written_and_read(tmp_path: Path):
    (tmp_path / "dto/probe").mkdir(parents=True)
    (tmp_path / "dto/mark").write_bytes(b"mark")
    probes.probe_shared(tmp_path, is_mount=False)
    assert list((tmp_path / "dto/probe").iterdir()) == []
    node = Node("n1", "a", "h", "b", str(tmp_path))
    assert probes.shared_folder(node) == []
    assert probes.mark(node) == b"mark".hex()


def test_a_folder_that_is_not_mounted_is_refused(tmp_path: Path):
    (tmp_path / "dto/probe").mkdir(parents=True)
    (tmp_path / "dto/mark").touch()
    with pytest.raises(NodeError, match="is not mounted"):
        probes.probe_shared(tmp_path, is_mount=True)
    gone = Node("n1", "a", "h", "b", str(tmp_path / "gone"))
    assert "cannot be used: No such file" in probes.shared_folder(gone)[0]


def test_uncorrected_memory_errors_are_seen():
    table = "0, 0, No\n1, 3, No\n2, [N/A], [N/A]\n3, 0, Yes\n"
    assert probes.ecc_problems(table) == [
        "GPU 1 has 3 uncorrected memory errors", "GPU 3 cannot remap its bad memory",
    ]  # fmt: skip


def test_only_xids_that_end_a_gpus_work_count():
    log = (
        "NVRM: Xid (PCI:0000:3b:00): 13, pid=1, Graphics Exception\n"
        "NVRM: Xid (PCI:0000:5e:00): 79, pid=2, GPU has fallen off the bus.\n"
    )
    assert probes.xid_problems(log) == ["GPU 0000:5e:00 reported Xid 79"]


def test_a_node_describes_itself_to_slurm():
    line = node_line(NODE, 1000)
    assert line == "NodeAddr=10.0.0.2 RealMemory=950 Feature=gpu,big Gres=gpu:h100:2"
    words = slurmd_options(NODE, 1000)
    assert words == ["-Z", "-N", "n1", "--conf-server", "10.0.0.1", "--conf", line]
    static = Node("n1", "a", "head", "h", "/s", is_dynamic=False)
    assert slurmd_options(static, 1000) == ["-N", "n1", "--conf-server", "h"]


def test_systemd_gets_the_options_back_as_they_were():
    text = gate.environment_file(["-Z", "--conf", "Feature=a Gres=gpu:1"])
    name, _, value = text.strip().partition("=")
    assert name == "SLURMD_OPTIONS" and value[0] == value[-1] == '"'
    assert shlex.split(value[1:-1]) == ["-Z", "--conf", "Feature=a Gres=gpu:1"]


def test_memory_is_read_in_mebibytes():
    assert memory_mib("MemFree: 1 kB\nMemTotal:  2097152 kB\n") == 2048


def test_facts_are_read_and_their_absence_says_what_to_do(tmp_path: Path):
    path = tmp_path / "node.json"
    with pytest.raises(NodeError, match="cluster-setup"):
        read_node(path)
    path.write_text(json.dumps({"name": "n1"}))
    with pytest.raises(NodeError, match="cluster-setup"):
        read_node(path)
    facts = {"name": "n1", "address": "a", "head_name": "h", "head_address": "b",
             "shared": "/s", "gpu_files": ["/dev/null"], "unknown": 1}  # fmt: skip
    path.write_text(json.dumps(facts))
    assert read_node(path).gpu_files == ("/dev/null",)


def test_a_closed_gate_gives_up_for_now_and_says_why(tmp_path: Path):
    told: list[str] = []
    closed = gate.Verdict(("no GPU",))
    code = gate.run_gate(
        NODE, 0, lambda node: closed, lambda node, verdict: told.append(verdict.reason), tmp_path
    )
    assert code == 1
    assert told == ["dto: gate: no GPU"]
    assert json.loads((tmp_path / "gate.json").read_text()) == {
        "open": False, "problems": ["no GPU"],
    }  # fmt: skip
    assert not (tmp_path / "slurmd.env").exists()
