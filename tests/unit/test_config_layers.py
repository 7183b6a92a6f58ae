"""Every place a setting can come from, and what is said of a wrong one."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from dto.config.layers import (
    environment_layer,
    header_layer,
    make_layer,
    profile_layer,
    project_layer,
    user_layer,
)
from dto.config.machine import visible_gpus
from dto.errors import ConfigError


def test_yaml_scalars_stay_the_text_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "dto.yaml").write_text(
        "time: 24:00:00\nname: 2024-01-01\nrequeue: no\naccount:\nenv: {A: 1.50, B: true}\n"
    )
    layer = project_layer(tmp_path)
    assert layer.values == {
        "time_seconds": 86400,
        "name": "2024-01-01",
        "requeue": "no",
        "account": None,
        "env": {"A": "1.50", "B": "true"},
    }
    assert layer.origins["name"] == f"project {tmp_path}/dto.yaml"


def test_the_nearest_project_file_upward_counts_and_its_paths_are_its_own(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "dto.yaml").write_text("nodes: 3\n")
    (tmp_path / "a" / "dto.yaml").write_text("run_root: out\npython: env/bin/python\n")
    layer = project_layer(deep)
    assert layer.values == {
        "run_root": f"{tmp_path}/a/out",
        "python": f"{tmp_path}/a/env/bin/python",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nods: 2\n", "unknown setting 'nods'; did you mean 'nodes'?"),
        ("time: soon\n", "time: 'soon' is not a time"),
        ("- a\n", "must hold `setting: value` lines"),
        ("a: [\n", "is not YAML: line 2"),
        ("? [a, b]\n: 3\n", "is not YAML: line 1"),
        ("~: 3\n", "must hold"),
        ("nodes: 1\nnodes: 2\n", "line 2: 'nodes' is given twice"),
        ("env:\n  A: 1\n  A: 2\n", "line 3: 'A' is given twice"),
        ("[" * 3000, "nested too deeply"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "dto.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        project_layer(tmp_path)
    assert words in str(caught.value) and "dto.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dto.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        project_layer(tmp_path)


def test_the_header_of_a_script_ends_with_its_comments(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_bytes(
        b"#!/usr/bin/env python\n# caf\xe9\n\n# dto: nodes=2 time=4h\n#dto: env='A=1 B=2'\n"
        b"import os\n# dto: nodes=9\n"
    )
    layer = header_layer(script)
    assert layer.values == {"nodes": "2", "time_seconds": 14400, "env": {"A": "1", "B": "2"}}
    assert layer.origins["env"] == "script header train.py line 5"


@pytest.mark.parametrize("line", ["# dto: nodes", "# dto: name='x", "# dto: nodez=2"])
def test_a_wrong_header_names_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "train.py").write_text(line + "\n")
    with pytest.raises(ConfigError, match="script header train.py line 1"):
        header_layer(tmp_path / "train.py")


def test_the_environment_holds_settings_and_what_dto_itself_set() -> None:
    layer = environment_layer(
        {"DTO_NODES": "2", "DTO_RUN_DIR": "/x", "DTO_NODE": "n1", "NODES": "9"}
    )
    assert layer.values == {"nodes": "2"}
    assert layer.origins == {"nodes": "environment DTO_NODES"}


@pytest.mark.parametrize("name", ["DTO_NODE", "DTO_RANK_PER_NODE", "DTO_TIMES"])
def test_a_variable_that_is_nearly_a_setting_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*did you mean"):
        environment_layer({name: "2"})


def test_a_variable_of_another_program_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert environment_layer({"DTO_ZEBRA": "1"}).values == {}
    assert "DTO_ZEBRA" in caplog.text


def test_the_profile_gives_settings_and_facts(tmp_path: Path) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text(
        "name: lab\npartition: gpu\ncpus_per_gpu: 6\ntime: 12h\nrequeue_ok: no\n"
        "setup: [module load cuda]\nsbatch: {constraint: a100}\n"
    )
    layer = profile_layer({"DTO_CLUSTER_PROFILE": str(profile)})
    assert layer.cpus_per_gpu == 6
    assert layer.values == {
        "partition": "gpu",
        "time_seconds": 43200,
        "requeue": False,
        "setup": ["module load cuda"],
        "sbatch": {"constraint": "a100"},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [("partitoin: gpu", "did you mean 'partition'"), ("gpus_per_node: many", "gpus_per_node")],
)
def test_a_wrong_profile_is_named(tmp_path: Path, text: str, words: str) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text(text)
    with pytest.raises(ConfigError, match=words):
        profile_layer({"DTO_CLUSTER_PROFILE": str(profile)})


def test_a_profile_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        profile_layer({"DTO_CLUSTER_PROFILE": str(tmp_path / "none.yaml")})


def test_the_users_file_lies_where_xdg_says(tmp_path: Path) -> None:
    (tmp_path / "dto").mkdir()
    (tmp_path / "dto" / "config.yaml").write_text("account: me\n")
    assert user_layer({"XDG_CONFIG_HOME": str(tmp_path)}).values == {"account": "me"}
    assert user_layer({"HOME": str(tmp_path)}).values == {}


def test_dashes_and_underscores_name_the_same_setting() -> None:
    assert make_layer({"ranks-per-node": "2"}, "x").values == {"ranks_per_node": "2"}


def test_only_visible_gpus_count(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == 2
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == 1
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == 0
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, tmp_path) == 1
    assert visible_gpus({}, tmp_path / "none") == 0


def test_one_profile_gives_each_user_a_run_root(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("run_root: /shared/runs/$USER\n")
    layer = profile_layer({"DTO_CLUSTER_PROFILE": str(tmp_path / "cluster.yaml")})
    assert layer.values["run_root"] == f"/shared/runs/{pwd.getpwuid(os.geteuid()).pw_name}"
