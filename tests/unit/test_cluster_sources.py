"""Files, Terraform, flags and this machine: four ways to the same record."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dto.cluster.inventory import parse_record
from dto.cluster.sources import from_flags, from_terraform, load_record, local_record, next_name
from dto.errors import ConfigError, UsageError
from tests.unit.cluster_records import needs

SMALL: dict[str, Any] = {
    "name": "lab",
    "ssh": {"key": "keys/id"},
    "head": {"name": "h", "address": "10.0.0.1"},
    "software": {"wheels": "wheels"},
}


@pytest.mark.parametrize(
    "wrapped",
    [
        SMALL,
        {"dto_cluster": SMALL},
        {"value": SMALL, "type": ["object", {}], "sensitive": False},
        {"dto_cluster": {"value": SMALL, "type": "dynamic"}, "other": {"value": 1}},
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_file_may_wrap_the_record_as_terraform_does(
    tmp_path: Path, wrapped: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"c{suffix}"
    path.write_text(json.dumps(wrapped))
    found = load_record(path)
    assert found.name == "lab"
    assert found.ssh.key == f"{tmp_path}/keys/id"
    assert found.software.wheels == f"{tmp_path}/wheels"


def test_a_home_path_stays_for_whoever_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**SMALL, "ssh": {"key": "~/.ssh/id"}}))
    assert load_record(path).ssh.key == "~/.ssh/id"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.yaml", "", "is empty"),
        ("c.json", "{", "is not JSON"),
        ("c.json", "", "is not JSON"),
        ("c.json", "[1]", "it must hold"),
        ("c.json", "[" * 5000, "is not JSON"),
        ("c.yaml", "a: [", "is not YAML: line 1"),
        ("c.yaml", "name: lab\nname: lab\n", "'name' is given twice"),
        ("c.yaml", "dto_cluster: 5\n", "it must hold"),
        ("c.yaml", "name: lab\nssh: {key: |\n -----BEGIN\n }\n", "is not YAML"),
        ("c.yaml", "name: lab\nssh:\n  key: |\n    -----BEGIN X-----\n    abc\n", "private key"),
    ],
)
def test_a_file_that_holds_no_record_is_refused(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_record(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    for name in ("c.yaml", "c.json"):
        with pytest.raises(ConfigError, match="cannot read .*: No such file"):
            load_record(tmp_path / name)


def test_flags_name_what_nobody_named() -> None:
    found = from_flags(
        "lab",
        "10.0.0.1",
        "10.0.0.2, 10.0.0.3,10.0.0.2  n4.example.org",
        names={"N4.example.org": "n4", "10.0.0.3": "lab-001"},
        gpus={"10.0.0.2": 2},
        user="ubuntu",
        key="id",
    )
    assert found.head.name == "lab-head"
    assert [(node.name, node.address, node.gpus, node.group) for node in found.nodes] == [
        ("lab-002", "10.0.0.2", 2, "gpu"),
        ("lab-001", "10.0.0.3", 0, "cpu"),
        ("n4", "n4.example.org", 0, "cpu"),
    ]
    assert (found.ssh.user, found.ssh.key) == ("ubuntu", os.path.abspath("id"))
    assert next_name("lab", ["LAB-001", "lab-003"]) == "lab-002"


def test_flags_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UsageError, match="--master-ip takes one address, not '10.0.0.1 10.0.0.2'"):
        from_flags("lab", "10.0.0.1 10.0.0.2", "")
    with pytest.raises(UsageError, match="--master-ip takes one address, not ''"):
        from_flags("lab", "", "10.0.0.2")
    with pytest.raises(ConfigError, match="command line: .*'10.0.0.1' is given twice"):
        from_flags("lab", "10.0.0.1", ["10.0.0.1"])
    with pytest.raises(ConfigError, match="command line: name: 'My Lab' must be"):
        from_flags("My Lab", "10.0.0.1", "10.0.0.2")


def test_further_keys_go_along_with_flags() -> None:
    found = from_flags(
        "lab", "10.0.0.1", "10.0.0.2", port=2222, more={"shared": {"kind": "existing"}}
    )
    assert (found.shared.kind, found.ssh.port) == ("existing", 2222)


def test_this_machine_is_head_and_node_in_one() -> None:
    found = local_record("solo", "box.example.org", "10.0.0.7", gpus=2)
    assert [host.name for host in found.members] == ["box"]
    assert found.head.local and found.nodes[0].local and found.nodes[0].gpus == 2
    assert found.provider == "local"


def fake_terraform(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "bin" / "terraform"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


def test_terraform_is_asked_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = json.dumps({"dto_cluster": {"value": SMALL, "sensitive": False}})
    body = f"""[ "$*" = "-chdir={tmp_path} output -no-color -json" ] || exit 9\necho '{outputs}'"""
    fake_terraform(tmp_path, body, monkeypatch)
    expected = {**SMALL, "ssh": {"key": f"{tmp_path}/keys/id"}}
    expected["software"] = {"wheels": f"{tmp_path}/wheels"}
    assert from_terraform(tmp_path) == parse_record(expected, "t")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo '{}'", "nothing was applied in .*; run `terraform apply` there first"),
        (
            """echo '{"vpc_id": {"value": 1}}'""",
            r"no output 'dto_cluster' in .* \(outputs: vpc_id\)",
        ),
        ("""echo '{"dto_cluster": {"value": null}}'""", "is null; run `terraform apply`"),
        ("""echo '{"dto_cluster": {"value": {"name": "lab"}}}'""", "in .*: head is missing"),
        ("echo hello", "printed no JSON"),
        (
            "printf '╷\\n│ Error: Backend\\n│ run init\\n╵\\n' >&2; exit 1",
            "Backend: run init",
        ),
        ("exit 1", "failed without a word"),
        ("exec sleep 60", "gave no answer in 0.5 s"),
    ],
)
def test_what_terraform_cannot_say_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    fake_terraform(tmp_path, body, monkeypatch)
    seconds = 0.5 if "sleep" in body else 60
    with pytest.raises(ConfigError, match=words) as caught:
        from_terraform(tmp_path, timeout_seconds=seconds)
    assert "\n" not in str(caught.value)


def test_without_terraform_or_its_folder_the_message_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="is not a folder; name the one where"):
        from_terraform(tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="terraform is not installed, or not on PATH"):
        from_terraform(tmp_path)


@needs("terraform")
def test_real_terraform_gives_the_record(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing was applied|No outputs|not"):
        from_terraform(tmp_path)
    body = """output "dto_cluster" { value = {
      name = "lab", region = null, head = { name = "h", address = "10.0.0.1", local = false }
      nodes = [for i in range(2) : { name = "n${i}", address = "10.0.1.${i + 1}", gpus = 8 }] } }"""
    (tmp_path / "main.tf").write_text(body)
    for words in (["init"], ["apply", "-auto-approve"]):
        command = ["terraform", f"-chdir={tmp_path}", *words, "-input=false"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    found = from_terraform(tmp_path)
    assert [node.address for node in found.nodes] == ["10.0.1.1", "10.0.1.2"]
