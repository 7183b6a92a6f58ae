"""The record of a cluster: what it takes, what it refuses, and in which words."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from dto.cluster.inventory import Partition, parse_record
from dto.cluster.sources import load_record
from dto.errors import ConfigError
from tests.unit.cluster_records import public_key, record, small

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster.yaml"


def changed(path: str, value: Any) -> dict[str, Any]:
    """A small record with the value at `nodes.1.address` or the like replaced or added."""
    raw: Any = copy.deepcopy(small())
    *way, last = path.split(".")
    place = raw
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    if isinstance(place, list):
        place[int(last) :] = [value]
    else:
        place[last] = value
    return raw


def refusal(raw: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_record(raw, "cluster.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("cluster.yaml: ")


def test_the_example_loads_and_says_everything_it_shows() -> None:
    found = load_record(EXAMPLE)
    assert [node.name for node in found.nodes] == ["lab-001", "lab-002", "lab-003"]
    assert [node.gpus for node in found.nodes] == [8, 8, 0]
    assert found.users[0].sudo and not found.users[1].sudo
    assert found.partitions() == (
        Partition("gpu", "gpu", True, "2-00:00:00"),
        Partition("prepare", "cpu", False, "08:00:00"),
        Partition("all", None, False, "1-00:00:00"),
    )


def test_what_the_example_leaves_commented_out_would_be_taken(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    for key in ("bastion", "public_address"):
        assert f"  # {key}: " in text
        text = text.replace(f"  # {key}: ", f"  {key}: ")
    (tmp_path / "cluster.yaml").write_text(text)
    found = load_record(tmp_path / "cluster.yaml")
    assert found.ssh.bastion and found.head.public_address


def test_a_record_without_groups_has_both_partitions_before_their_first_node() -> None:
    found = record(nodes=[])
    assert [(p.name, p.feature, p.default) for p in found.partitions()] == [
        ("gpu", "gpu", False),
        ("cpu", "cpu", False),
        ("all", None, True),
    ]
    assert [node.group for node in record().nodes] == ["gpu", "cpu"]
    assert found.partitions() == record().partitions()


def test_a_node_has_from_its_group_what_it_does_not_say() -> None:
    groups = {"big": {"gpu_files": ["/dev/fake[0-3]"], "gpu_type": "h100", "features": ["nvlink"]}}
    nodes = [
        {"name": "a", "address": "10.0.0.2", "group": "big"},
        {"name": "b", "address": "10.0.0.3", "group": "big", "gpus": 2, "features": []},
        {"name": "c", "address": "10.0.0.4"},
        {"name": "d", "address": "10.0.0.5", "gpus": 4},
        {"name": "e", "address": "10.0.0.6", "gpus": 0},
    ]
    found = record(nodes=nodes, node_groups=groups)
    a, b, c, d, e = found.nodes
    fakes = tuple(f"/dev/fake{number}" for number in range(4))
    assert (a.gpus, a.device_files, a.gpu_type, a.features) == (4, fakes, "h100", ("nvlink",))
    assert (b.gpus, b.device_files, b.features) == (2, ("/dev/nvidia0", "/dev/nvidia1"), ())
    assert (c.group, c.gpus) == ("big", 4)
    assert d.device_files == fakes
    assert (e.gpus, e.device_files) == (0, ())
    assert parse_record(found.to_json(), "again") == found


def test_the_head_counts_once_where_it_takes_jobs_itself() -> None:
    head = {"name": "box", "address": "10.0.0.1", "public_address": "198.51.100.7", "local": True}
    node = {"name": "box", "address": "10.0.0.1", "gpus": 1}
    found = record(head=head, nodes=[node])
    assert [host.name for host in found.members] == ["box"]
    assert found.head_node is not None
    assert found.head_node.local and found.head_node.public_address == "198.51.100.7"
    assert [host.name for host in record().members] == ["lab-head", "lab-001", "lab-002"]


def test_null_is_the_same_as_absent_as_terraform_writes_it() -> None:
    raw = small(bucket=None, ssh={"user": "ubuntu", "key": None}, users=None, power=None)
    assert parse_record(raw, "t") == record(ssh={"user": "ubuntu"})


def test_a_number_is_a_setting_of_slurm_as_json_writes_it() -> None:
    assert record(slurm={"settings": {"KillWait": 90}}).slurm.settings == {"KillWait": "90"}


def test_yaml_texts_are_numbers_and_truths_where_they_should_be(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "version: 1\nname: lab\nhead: {name: h, address: 10.0.0.1, hourly_usd: 0.25}\n"
        "nodes: [{name: n, address: 10.0.0.2, gpus: 2, spot: yes}]\n"
        "users: [{name: ada, uid: 2001, sudo: true}]\nslurm: {settings: {KillWait: 90}}\n"
    )
    found = load_record(path)
    assert (found.nodes[0].spot, found.nodes[0].gpus, found.users[0].uid) == (True, 2, 2001)
    assert found.slurm.settings == {"KillWait": "90"} and found.head.hourly_usd == 0.25


REFUSALS = [
    ("nodes.1.name", "lab_002", "nodes[1].name: 'lab_002' cannot be a host's name"),
    ("nodes.1.name", "n2.example.org", "no dots; write 'n2'"),
    ("nodes.1.name", "7", "'7' cannot be a host's name"),
    ("nodes.1.name", "-a", "cannot be a host's name"),
    ("nodes.1.name", "a" * 64, "cannot be a host's name"),
    ("nodes.1.name", "localhost", "has a meaning of its own"),
    ("nodes.1.name", "LAB-001", "nodes[1].name: 'LAB-001' is given twice (also nodes[0])"),
    ("nodes.1.name", "lab-head", "'lab-head' is given twice (also head)"),
    ("nodes.1.address", "10.0.0.2", "nodes[1].address: '10.0.0.2' is given twice (also nodes[0])"),
    ("nodes.1.address", "10.0.0.1", "is given twice (also head)"),
    ("nodes.1.public_address", "10.0.0.2", "is given twice (also nodes[0])"),
    ("nodes.1.address", "10.0.0.300", "neither an IP address nor a host name"),
    ("nodes.1.address", "10.0.0", "neither an IP address nor a host name"),
    ("nodes.1.address", "10.0.0.0/24", "neither an IP address nor a host name"),
    ("nodes.1.address", "", "neither an IP address nor a host name"),
    ("nodes.1.address", "root@10.0.0.9", "the user goes under ssh.user"),
    ("nodes.1.address", "10.0.0.9:22", "the port goes under ssh.port"),
    ("nodes.1.address", "fe80::1%eth0", "only on one machine"),
    ("nodes.1.address", "0.0.0.0", "no address of a single host"),
    ("nodes.1.address", "224.0.0.1", "no address of a single host"),
    ("nodes.1.address", "127.0.1.1", "every machine's own address"),
    ("nodes.1.address", 5, "nodes[1].address: must be text"),
    ("head.address", "127.0.0.1", "head.address: the nodes cannot reach '127.0.0.1'"),
    ("head.address", "localhost", "head.address: the nodes cannot reach"),
    ("nodes.1.group", "gpi", "nodes[1].group: unknown group 'gpi'; did you mean 'gpu'?"),
    ("node_groups", {"a": {}, "b": {}}, "nodes[0].group is missing; take one of: a, b"),
    ("nodes.1.gpus", -1, "nodes[1].gpus: must be greater than or equal to 0"),
    ("nodes.1.gpus", True, "nodes[1].gpus: must be a whole number"),
    ("nodes.0.gpu_files", ["/dev/x0"], "nodes[0]: gpus is 2, but gpu_files names 1"),
    ("nodes.0.gpu_files", ["/dev/x0", "/dev/x0"], "names one device twice"),
    ("nodes.0.gpu_files", ["/etc/passwd", "/dev/x"], "is not the path of a device"),
    ("nodes.0.gpu", 1, "nodes[0]: unknown key 'gpu'; did you mean 'gpus'?"),
    ("nods", [], "unknown key 'nods'; did you mean 'nodes'?"),
    ("shared.knd", "nfs", "shared: unknown key 'knd'; did you mean 'kind'?"),
    ("node_groups.gpu.max_tme", "1", "node_groups.gpu: unknown key 'max_tme'; did you mean"),
    ("node_groups.gpu.max_time", "soon", "node_groups.gpu.max_time: 'soon' is not a time"),
    ("node_groups.gpu.partition", "all", "has a meaning of its own"),
    ("node_groups", {"all": {}}, "'all' has a meaning of its own"),
    ("node_groups", {"cpu": {}, "a b": {}}, "node_groups.a b: 'a b' must be letters"),
    ("node_groups", {"gpu": {"default": True}, "cpu": {"default": True}}, "are both the default"),
    (
        "node_groups",
        {"gpu": {}, "cpu": {"partition": "gpu"}},
        "node_groups.cpu.partition: 'gpu' is",
    ),
    ("users", [{"name": "ada", "uid": 999}], "users[0].uid: 999 belongs to the system"),
    ("users", [{"name": "ada", "uid": 65534}], "kept for the system"),
    ("users", [{"name": "root", "uid": 1000}], "users[0].name: 'root' is an account of the system"),
    ("users", [{"name": "slurm", "uid": 1000}], "an account of the system"),
    ("users", [{"name": "Ada L", "uid": 1000}], "cannot be a user's name"),
    ("users", [{"name": "a", "uid": 1001}, {"name": "b", "uid": 1001}], "users[1].uid: '1001' is"),
    ("users", [{"name": "a", "uid": 1001}, {"name": "a", "uid": 1002}], "users[1].name: 'a' is"),
    ("users", [{"name": "ada"}], "users[0].uid is missing"),
    (
        "users",
        [{"name": "a", "uid": 1001, "keys": ["ssh-rsa"]}],
        "users[0].keys[0]: 'ssh-rsa' is not",
    ),
    ("users", "ada", "users must be a list"),
    ("shared.kind", "efs", "shared: efs needs a source: fs-0123"),
    ("shared.kind", "fsx-lustre", "fsx-lustre needs a source"),
    ("shared.kind", "virtiofs", "virtiofs needs a source"),
    ("shared.kind", "glusterfs", "shared.kind: must be 'nfs', 'efs'"),
    ("shared", {"kind": "existing", "source": "a:/b"}, "existing takes no source"),
    ("shared.source", "server", "is not `server:/folder`"),
    ("shared.options", "ro\nexec", "shared.options: must not hold a newline"),
    ("shared.options", "ro exec", "no spaces"),
    ("shared.path", "shared", "must be an absolute path"),
    ("shared.path", "/a/../etc", "must be an absolute path"),
    ("shared.path", "/", "belongs to the system"),
    ("shared.path", "/home/", "belongs to the system"),
    ("shared.path", "/usr/share/x", "belongs to the system"),
    ("slurm.settings", {"clustername": "x"}, "clustername cannot be set here: it is `name`"),
    ("slurm.settings", {"SlurmctldHost": "x"}, "it is `head`"),
    ("slurm.settings", {"AuthType": "x"}, "dto sets it"),
    ("slurm.settings", {"MaxNodeCount": "4"}, "it is `slurm.max_nodes`"),
    ("slurm.settings", {"KillWait": "9\nAuthType=none"}, "must be one line"),
    ("slurm.settings", {"KillWait": "9 # x"}, "without '#'"),
    ("slurm.settings", {"Kill Wait": "9"}, "no key of slurm.conf"),
    ("slurm.settings", {"KillWait": "9", "killwait": "8"}, "are the same key"),
    ("slurm.max_nodes", 1, "slurm.max_nodes is 1, but there are 2 nodes"),
    ("slurm.task_plugin", "affinity,magic", "slurm.task_plugin: 'affinity,magic' must be"),
    ("host_keys", {"10.0.0.2": ["AAAA"]}, "host_keys.10.0.0.2[0]: 'AAAA' is not a host key"),
    ("host_keys", {"10.0.0.2": ["ssh-rsa " + public_key().split()[1]]}, "is not a host key"),
    ("host_keys", {"10.0.0.2": [public_key()[:-8]]}, "is not a host key"),
    ("host_keys", {"10.0.0.2 a": [public_key()]}, "neither an IP address nor a host name"),
    ("host_keys", {"10.0.0.2": public_key()}, "host_keys.10.0.0.2 must be a list"),
    ("power.off", "off {nme}", "power.off: unknown field {nme}"),
    ("power.off", "off {name.__class__}", "unknown field"),
    ("power.off", "awk '{print'", "power.off:"),
    ("power.on", " ", "must not be empty"),
    ("power.on", "ipmitool -U a -P s3cret power on", "power.on: it holds a password"),
    ("ssh.port", 70000, "ssh.port: must be less than or equal to 65535"),
    ("ssh.bastion", "a@b@c", "is not [user@]host[:port]"),
    ("ssh.bastion", "gate:99999", "99999 is no port"),
    ("region", "{{ lookup('pipe', 'id') }}", "region: '{{' would be a template to Ansible"),
    ("name", "Lab", "name: 'Lab' must be 1 to 32 small letters"),
    ("version", 2, "version: this dto reads version 1 of the record, not 2"),
    ("prices", {"h100": -1}, "prices.h100: must be greater than or equal to 0"),
    ("head", "10.0.0.1", "head must hold `key: value` lines"),
]


@pytest.mark.parametrize(
    ("path", "value", "words"), REFUSALS, ids=[f"{p}={str(v)[:24]}" for p, v, _ in REFUSALS]
)
def test_a_wrong_value_is_refused_with_its_path(path: str, value: Any, words: str) -> None:
    assert words in refusal(changed(path, value))


def test_only_one_host_is_this_machine() -> None:
    raw = small(head={"name": "h", "address": "10.0.0.1", "local": True})
    raw["nodes"][0]["local"] = True
    assert "only one host can be the machine" in refusal(raw)


def test_several_problems_are_the_first_one_and_a_number() -> None:
    raw = small(name="Lab", nods=1)
    raw["nodes"][1]["address"] = "10.0.0.300"
    assert refusal(raw) == "unknown key 'nods'; did you mean 'nodes'? (and 2 more)"


@pytest.mark.parametrize(
    "path", ["ssh.key", "nodes.0.name", "users", "power.on", "host_keys", "bogus", "slurm.settings"]
)
@pytest.mark.parametrize("mark", ["-----BEGIN OPENSSH PRIVATE KEY-----", "b3BlbnNzaC1rZXktdjEAAAA"])
def test_a_private_key_is_refused_wherever_it_stands_and_never_repeated(
    path: str, mark: str
) -> None:
    pasted = mark + "\nc2VjcmV0\n"
    value: Any = {"users": [{"keys": [pasted]}], "host_keys": {"a": [pasted]}}.get(path, pasted)
    text = refusal(changed(path, value))
    assert "holds a private key" in text and "c2VjcmV0" not in text
    assert path.replace(".0.", "[0].") in text
    assert "holds a private key" in refusal(small(slurm={"settings": {pasted: "1"}}))


def test_a_record_that_is_no_mapping_is_refused() -> None:
    for raw in ([], "lab", 3, None):
        assert refusal(raw) == "it must hold `key: value` lines"


def test_addresses_are_told_apart_by_what_they_mean() -> None:
    raw = small()
    raw["nodes"][0]["address"], raw["nodes"][1]["address"] = "fd00:0::2", "FD00::2"
    assert "is given twice" in refusal(raw)
    raw["nodes"][1]["address"] = "fd00::3"
    assert parse_record(raw, "t").nodes[0].address == "fd00::2"
    raw["nodes"][0]["address"], raw["nodes"][1]["address"] = "N1.example.org", "n1.example.org"
    assert "is given twice" in refusal(raw)


def test_keys_keep_what_ssh_needs() -> None:
    options = f'from="10.0.0.0/8" {public_key()} ada'
    found = record(
        host_keys={"10.0.0.2": [public_key(1) + " root@n1", public_key(2, "ssh-rsa")]},
        users=[{"name": "ada", "uid": 2001, "keys": [options]}],
    )
    assert found.host_keys["10.0.0.2"] == (public_key(1), public_key(2, "ssh-rsa"))
    assert found.users[0].keys == (options,)
