"""What the operator's machine keeps of clusters, and who may change one at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dto.cluster.state import cluster_state, clusters_folder, known_clusters, open_cluster
from dto.errors import ClusterError, ConfigError
from tests.unit.cluster_records import public_key, record

NOWHERE = Path("/nonexistent/record.yaml")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}


def test_the_state_lies_where_xdg_says(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    usual = tmp_path / ".local" / "state" / "dto" / "clusters"
    assert clusters_folder(home) == usual
    assert clusters_folder({**home, "XDG_STATE_HOME": ""}) == usual
    assert clusters_folder({**home, "XDG_STATE_HOME": "relative"}) == usual
    assert clusters_folder({"XDG_STATE_HOME": "/s"}) == Path("/s/dto/clusters")


def test_what_is_saved_is_private_and_saved_once(env: dict[str, str]) -> None:
    state = cluster_state("lab", env)
    assert state.load() is None and known_clusters(env) == ()
    found = record(host_keys={"10.0.0.2": [public_key()]})
    assert state.save(found) and not state.save(found)
    assert state.load() == found and known_clusters(env) == ("lab",)
    assert state.folder.stat().st_mode & 0o777 == 0o700
    for path in (state.record_path, state.known_hosts, state.head_record_path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert public_key() in state.known_hosts.read_text()


def test_a_removed_node_leaves_no_key_behind(env: dict[str, str]) -> None:
    state = cluster_state("lab", env)
    found = record(host_keys={"10.0.0.2": [public_key(1)], "10.0.0.3": [public_key(2)]})
    state.save(found)
    smaller = state.remove_host(found, "lab-001")
    assert state.load() == smaller and [node.name for node in smaller.nodes] == ["lab-002"]
    assert state.known_hosts.read_text() == f"10.0.0.3 {public_key(2)}\n"


def test_the_only_cluster_needs_no_name(env: dict[str, str]) -> None:
    cluster_state("lab", env).save(record())
    for name in (None, "lab"):
        found = open_cluster(name, env, NOWHERE)
        assert found.record.name == "lab" and not found.is_head
    with pytest.raises(
        ConfigError, match="no cluster 'lob' here; --cluster-name takes one of: lab"
    ):
        open_cluster("lob", env, NOWHERE)
    cluster_state("two", env).save(record(name="two"))
    with pytest.raises(ConfigError, match="which cluster.*one of: lab, two"):
        open_cluster(None, env, NOWHERE)
    assert open_cluster("two", env, NOWHERE).record.name == "two"


def test_where_nothing_is_known_the_message_says_how_to_get_one(env: dict[str, str]) -> None:
    words = "set one up with scripts/cluster-setup.sh, or run this on a cluster's head"
    with pytest.raises(ClusterError, match=f"no cluster is known here; {words}"):
        open_cluster(None, env, NOWHERE)
    with pytest.raises(ClusterError, match=f"no cluster 'lab' is known here; {words}"):
        open_cluster("lab", env, NOWHERE)


def test_a_head_knows_its_own_cluster(env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "record.yaml"
    path.write_text(record(ssh={"key": "/k", "bastion": "gate"}).to_yaml())
    found = open_cluster(None, env, path)
    assert found.is_head and found.record.head.local and found.record.ssh.bastion is None
    assert found.state.folder == clusters_folder(env) / "lab" and not found.state.folder.exists()
    assert open_cluster("lab", env, path).is_head
    cluster_state("other", env).save(record(name="other"))
    assert not open_cluster("other", env, path).is_head
    assert open_cluster("lab", env, path).is_head


@pytest.mark.parametrize("name", ["../x", "", "A", "a/b", "a" * 33])
def test_a_name_cannot_lead_out_of_the_folder(env: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError, match="cluster name"):
        cluster_state(name, env)


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use .*: Not a directory"):
        cluster_state("lab", {"XDG_STATE_HOME": str(tmp_path / "file")}).save(record())


HOLDER = """
import os, sys
from dto.cluster.state import cluster_state
with cluster_state("lab", os.environ).lock("join"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(env: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = subprocess.Popen(command, env={**os.environ, **env}, text=True, **pipes)  # type: ignore[call-overload]
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_setup_hears_who_holds_the_cluster(env: dict[str, str]) -> None:
    state = cluster_state("lab", env)
    with hold(env) as holder:
        words = rf"a join of cluster lab is running: pid {holder.pid} on .* since 20\d\d-.*; wait"
        with pytest.raises(ClusterError, match=words), state.lock():
            pass
        with cluster_state("other", env).lock():
            pass
        holder.communicate(timeout=30)
    with state.lock():
        pass


def test_a_holder_that_was_killed_holds_nothing(env: dict[str, str]) -> None:
    with hold(env) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
        with cluster_state("lab", env).lock() as handle:
            assert os.get_inheritable(handle) is False
    with cluster_state("lab", env).lock():
        pass
