"""`dto cluster`: every refusal is one line with its exit code, before any host is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dto.cli.cluster import cluster_command
from tests.helpers import REPOSITORY

KEY_FLAG = "--private-key"


@pytest.fixture
def typed(tmp_path: Path) -> Any:
    """Type `dto cluster WORDS` as somebody with an empty home."""
    (tmp_path / "key").write_text("x")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "lab.yaml").write_text(
        "name: lab\nhead: {name: head, address: 127.0.0.1}\nnodes: []\n"
    )
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    for name in ("XDG_STATE_HOME", "SSH_AUTH_SOCK"):
        env.pop(name, None)

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dto.cli", "cluster", *words],
            cwd=tmp_path, env={**env, **more}, text=True, capture_output=True, timeout=100,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return call


NO_HOST = "192.0.2.1"  # kept for documentation (RFC 5737): nobody has it
FLAGS = ("--cluster-name", "lab", "--master-ip", NO_HOST)


@pytest.mark.parametrize(
    ("words", "gist"),
    [
        ([*FLAGS, KEY_FLAG, "absent"], "absent: there is no such file"),
        ([], "say which hosts"),
        (["--cluster-name", "lab"], "say which hosts"),
        (["--master-ip", NO_HOST], "--cluster-name is missing"),
        (["--cluster-name", "La b", "--master-ip", NO_HOST], "small letters"),
        (["--cluster-name", "lab", "--worker-ips", NO_HOST], "--worker-ips needs --master-ip"),
        ([*FLAGS, "--worker-ips", "10.0.0.999"], "neither an IP address nor a host name"),
        ([*FLAGS, "--worker-ips", "10.0.0.2,", "--total-gpus", "x"], "total-gpus"),
        ([*FLAGS, "--worker-ips", "10.0.0.2 10.0.0.3", "--total-gpus", "3"], "come out even"),
        ([*FLAGS, "--total-gpus", "3"], "--total-gpus needs --worker-ips"),
        ([*FLAGS, "--local"], "--master-ip and --local name the hosts twice"),
        ([*FLAGS, "--inventory", "lab.yaml"], "name the hosts twice"),
        (["--inventory", "absent.yaml"], "there is no such file"),
        (["--inventory", "lab.yaml", "--shared", "efs:fs-1"], "write it into the record"),
        (["--inventory", "lab.yaml", "--cluster-name", "x"], "the record calls it lab"),
        (["--from-terraform", "absent"], "not a folder"),
        ([*FLAGS, "--wheels", "absent"], "there is no such folder"),
        ([*FLAGS, "--shared", "floppy"], "floppy"),
        ([*FLAGS, "--shared-path", "/etc/x"], "belongs to the system"),
        ([*FLAGS, "--torch", "newest"], "newest"),
        ([*FLAGS, "--port", "0"], "port"),
        (["--role", "worker"], "--role worker and --head HOST go together"),
        (["--head", NO_HOST], "go together"),
        (["--role", "master", "--head", NO_HOST], "master"),
        (["--role", "worker", "--head", NO_HOST, "--local"], "do not go together"),
        (["--role", "worker", "--head", "127.0.0.1"], "is this machine"),
        (["--join", NO_HOST, "--master-ip", NO_HOST], "do not go together"),
        ([*FLAGS, "--secret-name", "x"], "needs --use-secrets-manager"),
        ([*FLAGS, "--use-secrets-manager"], "needs --secret-name"),
        ([*FLAGS, "--use-secrets-manager", "--secret-name", "x", KEY_FLAG, "key"], "two keys"),
        ([*FLAGS, "--colour"], "No such option"),
    ],
)
def test_what_cannot_be_meant_is_usage(typed: Any, words: list[str], gist: str) -> None:
    said = typed("setup", *words)
    assert (said.returncode, said.stdout) == (2, ""), said.stderr
    assert said.stderr.count("\n") == 1 and gist in said.stderr, said.stderr


@pytest.mark.parametrize(
    ("words", "code", "gist"),
    [
        (["status"], 3, "no cluster is known here"),
        (["doctor", "--cluster-name", "x"], 3, "no cluster 'x' is known here"),
        (["verify"], 3, "no cluster is known here"),
        (["remove", "n1"], 3, "no cluster is known here"),
        (["join", "10.0.0.9"], 3, "no cluster is known here"),
        (["join", "a=10.0.0.9,10.0.0.8"], 2, "one host"),
        (["backup", "absent/file"], 2, "there is no folder"),
        (["restore", "absent"], 2, "there is no such file"),
        (["upgrade", KEY_FLAG, "absent"], 2, "there is no such file"),
        (["repair"], 2, "No such command"),
    ],
)
def test_commands_on_no_cluster_are_one_line(
    typed: Any, words: list[str], code: int, gist: str
) -> None:
    said = typed(*words)
    assert (said.returncode, said.stdout) == (code, ""), said.stderr
    assert said.stderr.count("\n") == 1 and gist in said.stderr, said.stderr


def test_a_head_that_does_not_answer_ends_it_and_leaves_nothing(
    typed: Any, tmp_path: Path
) -> None:
    # port 1 of this machine is closed; the address must not be taken for this machine itself
    words = ["setup", "--cluster-name", "lab", "--master-ip", "localhost.invalid"]
    said = typed(*words, "--accept-new-host-keys")
    assert said.returncode == 3 and said.stderr.count("\n") == 1, said.stderr
    assert "the head" in said.stderr and "nothing was changed" in said.stderr
    assert not list(tmp_path.rglob("record.yaml"))


def test_a_missing_boto3_is_one_line(typed: Any, tmp_path: Path) -> None:
    (tmp_path / "hidden" / "boto3").mkdir(parents=True)
    (tmp_path / "hidden" / "boto3" / "__init__.py").write_text("raise ImportError('no boto3')\n")
    paths = f"{tmp_path / 'hidden'}:{REPOSITORY}"
    words = ("--use-secrets-manager", "--secret-name", "key")
    said = typed("setup", *FLAGS, *words, PYTHONPATH=paths)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "pip install boto3" in said.stderr


def test_every_command_explains_itself(typed: Any) -> None:
    for name, command in cluster_command.commands.items():
        assert command.get_short_help_str(), name
    said = typed("setup", "--help")
    assert said.returncode == 0
    for flag in ("--cluster-name", "--master-ip", "--worker-ips", "--total-gpus", "--private-key",
                 "--use-secrets-manager", "--secret-name", "--region", "--inventory", "--local",
                 "--from-terraform", "--join", "--check", "--accept-new-host-keys"):  # fmt: skip
        assert flag in said.stdout, flag


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dto.cli.main import main\n"
        "try: main(['cluster', 'setup', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'paramiko', 'ansible', 'pydantic', 'torch', 'boto3', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_only_one_change_of_a_cluster_runs_at_a_time(typed: Any, tmp_path: Path) -> None:
    folder = tmp_path / ".local/state/dto/clusters/lab"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from dto.cluster.state import ClusterState\n"
        "with ClusterState('lab', Path(sys.argv[1])).lock('setup'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        said = typed("setup", "--inventory", "lab.yaml")
        holder.kill()
    assert said.returncode == 3 and "is running: pid" in said.stderr, said.stderr
    assert time.monotonic() - began < 60


def test_a_status_of_slurm_is_json_for_programs(typed: Any, tmp_path: Path) -> None:
    """The head of a cluster is asked with its own programs; here they are stand-ins."""
    folder = tmp_path / ".local/state/dto/clusters/lab"
    folder.mkdir(parents=True)
    (folder / "record.yaml").write_text(
        "name: lab\nhead: {name: head, address: 127.0.0.1, local: true}\n"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    answers = {
        "scontrol": 'case $* in *config) echo ClusterName = lab ;; *) echo NodeName=n1 State=IDLE\n'
        "esac",
        "sinfo": "echo all",
        "squeue": 'echo "7|all|me|RUNNING|1|1|n1|job"',
    }
    for name, answer in answers.items():
        (programs / name).write_text(f"#!/bin/sh\n{answer}\n")
        (programs / name).chmod(0o755)
    said = typed("status", "--json", PATH=f"{programs}:{os.environ['PATH']}")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert (found["name"], found["jobs"][0]["id"]) == ("lab", "7")
    assert found["nodes"][0]["state"] == "idle"
    plain = typed("status", PATH=f"{programs}:{os.environ['PATH']}")
    assert "n1" in plain.stdout and "job" in plain.stdout
