"""The layers lie over each other in their order, and the whole is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dto.config.layers import make_layer
from dto.config.machine import Machine
from dto.config.resolve import Target, default_name, override, resolve
from dto.errors import ConfigError
from dto.jobs.prepare import Typed, prepare

CLUSTER = Target("slurm", Machine(gpus=0, cpus=2))
HERE = Target("local", Machine(gpus=0, cpus=2))
COMMAND = {"script": "/x/train.py", "args": [], "cwd": "/x"}


def job(target: Target = CLUSTER, **flags: Any) -> Any:
    return resolve(COMMAND, [], target, [make_layer(flags, "flag")]).spec


PLACES = ["cluster profile", "user config", "project", "script header", "environment", "flag"]


@pytest.mark.parametrize("highest", range(len(PLACES)))
def test_each_layer_beats_the_ones_below_it(tmp_path: Path, highest: int) -> None:
    config = tmp_path / "home" / ".config" / "dto" / "config.yaml"
    config.parent.mkdir(parents=True)
    profile, script = tmp_path / "cluster.yaml", tmp_path / "train.py"
    env = {"HOME": str(tmp_path / "home"), "DTO_CLUSTER_PROFILE": str(profile)}
    flags = {"partition": "p5"} if highest == 5 else {}
    script.write_text("# dto: partition=p3\n" if highest >= 3 else "")
    profile.write_text("partition: p0\n")
    if highest >= 1:
        config.write_text("partition: p1\n")
    if highest >= 2:
        (tmp_path / "dto.yaml").write_text("partition: p2\n")
    if highest >= 4:
        env["DTO_PARTITION"] = "p4"
    found = prepare(Typed("train.py", flags=flags), "slurm", env, tmp_path)
    assert found.spec.partition == f"p{highest}"
    assert found.origins["partition"].startswith(PLACES[highest])


def test_mappings_are_merged_by_key_and_setup_lines_add_up() -> None:
    low = make_layer({"sbatch": {"nice": "1", "hint": "x"}, "setup": ["a"]}, "low")
    high = make_layer({"sbatch": {"nice": "2"}, "setup": ["b"]}, "high")
    found = resolve(COMMAND, [low, high], CLUSTER, [])
    assert found.spec.sbatch == {"nice": "2", "hint": "x"}
    assert found.spec.setup == ("a", "b")
    assert found.origins["sbatch.nice"] == "high" and found.origins["sbatch.hint"] == "low"


def test_defaults_follow_from_the_place_and_the_rest() -> None:
    on_cluster, here = job(), job(HERE)
    assert (on_cluster.time_seconds, on_cluster.requeue, on_cluster.cpus_per_rank) == (
        86400,
        True,
        1,
    )
    assert (here.time_seconds, here.requeue, here.cpus_per_rank) == (None, False, None)
    assert on_cluster.run_root == "/x/runs" and on_cluster.name == "train"
    assert job(gpus_per_node="8").ranks_per_node == 8
    assert job(Target("local", Machine(gpus=2, cpus=8))).ranks_per_node == 2


def test_cpus_are_shared_out_by_what_the_profile_says_of_gpus() -> None:
    profile = replace(make_layer({"gpus_per_node": "4"}, "profile"), cpus_per_gpu=6)
    assert resolve(COMMAND, [profile], CLUSTER, []).spec.cpus_per_rank == 6
    two = make_layer({"ranks_per_node": "2"}, "flag")
    assert resolve(COMMAND, [profile], CLUSTER, [two]).spec.cpus_per_rank == 12


def test_a_files_cluster_size_does_not_bind_a_run_on_this_machine() -> None:
    project = make_layer({"nodes": "8", "time": "4h", "ranks_per_node": "2"}, "project")
    here = resolve(COMMAND, [project], HERE, []).spec
    assert (here.nodes, here.time_seconds, here.ranks_per_node) == (1, None, 2)
    typed = make_layer({"nodes": "2"}, "flag")
    assert resolve(COMMAND, [project], HERE, [typed]).spec.nodes == 2


def test_a_run_inside_an_allocation_takes_its_nodes() -> None:
    inside = Target("local", Machine(0, 2), allocation_nodes=3)
    assert job(inside).nodes == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"nodes": "0"}, "nodes: must be greater than or equal to 1"),
        ({"nodes": "-1"}, "nodes"),
        ({"nodes": "two"}, "nodes: must be a whole number, not 'two'"),
        ({"nodes": "1.5"}, "nodes: must be a whole number"),
        ({"ranks_per_node": "100000"}, "ranks_per_node"),
        ({"name": "a b"}, "name: must be 1 to 64 of"),
        ({"name": "a/b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a'b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "-x"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"backend": "mpi"}, "backend: must be 'auto', 'nccl', 'gloo' or 'horovod', not 'mpi'"),
        ({"partition": "a b"}, "partition: must be a plain word"),
        ({"account": "--x"}, "account"),
        ({"mem": "lots"}, "mem: must be a number of MB"),
        ({"retries": "-1"}, "retries"),
        ({"requeue": "perhaps"}, "requeue"),
        ({"env": {"A B": "1"}}, "env: 'A B' cannot be the name"),
        ({"env": {"A": "x\0y"}}, "env"),
        ({"run_root": "/a\nb"}, "run_root: must not hold a newline"),
        ({"sbatch": {"nice": "1\n#SBATCH --x"}}, "sbatch"),
        ({"save_budget": "nan"}, "save_budget"),
        ({"heartbeat_timeout": "0"}, "heartbeat_timeout"),
        ({"seed": "-1"}, "seed"),
        ({"backend": "nccl"}, "backend nccl needs GPUs"),
        ({"backend": "nccl", "gpus_per_node": "2", "ranks_per_node": "4"}, "4 ranks on 2 GPUs"),
    ],
)
def test_what_cannot_be_is_one_line_with_its_origin(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(**flags)
    text = str(caught.value)
    assert words in text and "\n" not in text
    assert "(flag)" in text or words.startswith(("backend", "4"))


def test_more_ranks_than_a_machine_can_carry_are_refused() -> None:
    with pytest.raises(ConfigError, match="100 ranks are too many for this machine of 2 CPUs"):
        job(HERE, ranks_per_node="100")
    assert job(HERE, ranks_per_node="8").ranks_per_node == 8


def test_more_ranks_than_gpus_use_gloo_unless_told_otherwise() -> None:
    assert job(gpus_per_node="1", ranks_per_node="2").backend == "gloo"
    assert job(gpus_per_node="2").backend == "auto"


def test_text_keeps_bytes_that_are_no_unicode() -> None:
    odd = "caf\udce9"
    found = resolve({**COMMAND, "args": [odd, ""], "cwd": f"/{odd}"}, [], CLUSTER, [])
    assert found.spec.args == (odd, "") and found.to_json()["values"]["cwd"] == f"/{odd}"


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ({"script": "/a/my net (2).py"}, "my-net-2"),
        ({"script": "/a/caf\udce9.py"}, "caf"),
        ({"script": "/a/日本.py"}, "job"),
        ({"module": "pkg.train"}, "pkg.train"),
        ({"script": "/a/" + "x" * 90 + ".py"}, "x" * 64),
        ({"script": "/a/.hidden.py"}, "hidden"),
    ],
)
def test_the_default_name_is_always_a_usable_one(what: dict[str, Any], name: str) -> None:
    assert default_name(what) == name


def test_a_resume_replaces_what_is_said_and_keeps_the_rest() -> None:
    before = resolve(COMMAND, [], CLUSTER, [make_layer({"nodes": "3", "time": "1h"}, "flag")])
    record = before.to_json()
    after = override(
        record["values"], record["origins"], make_layer({"nodes": "2"}, "flag --nodes")
    )
    assert (after.spec.nodes, after.spec.time_seconds) == (2, 3600)
    assert after.origins["nodes"] == "flag --nodes" and after.origins["time_seconds"] == "flag"
