"""What a configuration file may say, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from dto.errors import ConfigError
from dto.runtime.choice import Choice, choose
from dto.runtime.config_file import KEYS, ConfigFile, read_config
from dto.runtime.recipe import PRECISIONS, recipe_of
from tests.helpers import EXAMPLES

SEVEN = (
    "model batch_size num_gpus pipeline_parallelism zero_redundancy sharding_strategy"
    " communication_pattern"
).split()


def read(tmp_path: Path, text: str, **flags: str) -> ConfigFile:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return read_config(path, flags)


def reason(choice: Choice, setting: str) -> str:
    [found] = [one for one in choice.reasons if one.startswith(setting)]
    return found


def test_the_shipped_file_has_the_seven_settings() -> None:
    config = read_config(EXAMPLES / "config.yaml")
    assert list(KEYS[:7]) == SEVEN
    assert [getattr(config, key) for key in SEVEN] == [
        "transformer", 32, 4, True, True, "auto", "ring",
    ]  # fmt: skip


def test_the_shipped_file_is_two_pipelines_with_zero_1_between_them() -> None:
    choice = choose(read_config(EXAMPLES / "config.yaml"), 4, has_gpus=False)
    assert (choice.strategy, dict(choice.mesh)) == ("zero1", {"dp": 2, "pp": 2, "tp": 1})
    assert choice.layout.name == "zero1+pipeline" and choice.device == "cpu"
    assert "ZeRO-1: optimizer state is cut over 2 ranks" in reason(choice, "zero_redundancy: true")
    assert "2 stages" in reason(choice, "pipeline_parallelism: true")
    assert "not used" in reason(choice, "communication_pattern: ring")
    assert "64 samples a step" in reason(choice, "batch_size: 32")
    assert "4 processes on the CPU" in reason(choice, "devices")


def test_settings_that_may_be_added_have_the_values_that_the_shipped_file_shows() -> None:
    lines = (EXAMPLES / "config.yaml").read_text().splitlines()
    shown = {line[2:].split(":")[0] for line in lines if line.startswith("# ") and ": " in line}
    assert set(KEYS[7:]) == shown & set(KEYS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pipline_parallelism: true", "unknown setting 'pipline_parallelism': did you mean pip"),
        ("Model: mlp", "did you mean model?"),
        ("zzz: 1", "use one of model, batch_size"),
        ("batch_size: 0", "batch_size is '0': give a whole number from 1 on"),
        ("batch_size: 1.5", "whole number"),
        ("batch_size: [1]", "whole number"),
        ("num_gpus:", "num_gpus has no value"),
        ("num_gpus: four", "num_gpus is 'four'"),
        ("pipeline_parallelism: maybe", "use true, false or the number of stages"),
        ("pipeline_parallelism: 1", "from 2 on"),
        ("zero_redundancy: 4", "use true, false or a stage: 1, 2 or 3"),
        ("sharding_strategy: some", "use auto or manual"),
        ("sharding_strategy: manual", "sharding_rules must name a file"),
        ("communication_pattern: star", "use ring or tree"),
        ("model: [a]", "give a word"),
        ("lr: nan", "give a number above 0"),
        ("lr: -1", "give a number above 0"),
        ("precision: fp8", "use fp32 or bf16 or fp16"),
        ("model_options: 3", "lines of `name: number`"),
        ("model_options: {width: x}", "model_options.width is 'x'"),
        ("model: mlp\nmodel: mlp", "given twice"),
        ("- model", "must hold `setting: value` lines"),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_says_what_to_do(
    text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none.yaml: No such file"):
        read_config(tmp_path / "none.yaml")


def test_a_flag_comes_before_the_file_and_is_named_where_it_is_wrong(tmp_path: Path) -> None:
    assert read(tmp_path, "epochs: 2", epochs="5").epochs == 5
    with pytest.raises(ConfigError, match=r"^--epochs is 'x'"):
        read(tmp_path, "epochs: 2", epochs="x")


def test_files_are_beside_the_configuration_file_and_those_of_flags_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "sharding_strategy: manual\nsharding_rules: mine.yaml"
    assert read(tmp_path, text).sharding_rules == tmp_path / "mine.yaml"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = read(tmp_path, text, sharding_rules="other.yaml").sharding_rules
    assert found == tmp_path / "here" / "other.yaml"


def test_yaml_words_of_any_case_are_switches(tmp_path: Path) -> None:
    config = read(tmp_path, "pipeline_parallelism: True\nzero_redundancy: no")
    assert config.pipeline_parallelism is True and config.zero_redundancy is False


@pytest.mark.parametrize(
    ("settings", "world", "name", "mesh"),
    [
        ({}, 1, "ddp", (1, 1, 1)),
        ({}, 4, "ddp", (4, 1, 1)),
        ({"zero_redundancy": True}, 4, "zero2", (4, 1, 1)),
        ({"zero_redundancy": 3}, 3, "zero3", (3, 1, 1)),
        ({"zero_redundancy": 3}, 1, "ddp", (1, 1, 1)),
        ({"pipeline_parallelism": True}, 2, "ddp+pipeline", (1, 2, 1)),
        ({"pipeline_parallelism": True}, 3, "ddp+pipeline", (1, 3, 1)),
        ({"pipeline_parallelism": 4}, 4, "ddp+pipeline", (1, 4, 1)),
        ({"pipeline_parallelism": True}, 1, "ddp", (1, 1, 1)),
        ({"pipeline_parallelism": True, "zero_redundancy": 1}, 4, "zero1+pipeline", (2, 2, 1)),
        ({"pipeline_parallelism": True, "zero_redundancy": True}, 2, "ddp+pipeline", (1, 2, 1)),
        ({"tensor_parallelism": 2, "zero_redundancy": True}, 4, "zero2+tensor", (2, 1, 2)),
    ],
)
def test_settings_become_a_legal_strategy_on_a_mesh(
    settings: dict[str, int], world: int, name: str, mesh: tuple[int, int, int]
) -> None:
    choice = choose(ConfigFile(num_gpus=world, **settings), world, has_gpus=False)
    assert choice.layout.name == name
    assert tuple(choice.mesh.values()) == mesh
    recipe = recipe_of({"strategy": choice.strategy, "mesh": choice.mesh, **choice.options})
    assert recipe.layout(world) == choice.layout


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pipeline_parallelism": 3}, "3, which does not divide 4 ranks"),
        ({"zero_redundancy": 2, "pipeline_parallelism": True}, "does not go with pipeline"),
        ({"tensor_parallelism": 3}, "cannot be shared out"),
        ({"accumulation_steps": 2, "pipeline_parallelism": True}, "leave accumulation_steps out"),
        ({"batch_size": 3, "pipeline_parallelism": True}, "too little for the 4 micro-batches"),
        ({"tensor_parallelism": 8, "pipeline_parallelism": True}, "cannot be shared out"),
    ],
)
def test_what_does_not_go_together_says_what_would(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(ConfigFile(**settings), 4, has_gpus=False)


@pytest.mark.parametrize("pattern", ["ring", "tree"])
def test_the_pattern_is_the_all_reduce_of_ddp_alone(pattern: str) -> None:
    config = ConfigFile(communication_pattern=pattern, num_gpus=4)
    choice = choose(config, 4, has_gpus=False)
    assert choice.options["communication"] == pattern
    assert f"by a {pattern} all-reduce" in reason(choice, "communication_pattern")
    on_gpus = choose(config, 4, has_gpus=True)
    assert on_gpus.options["communication"] is None and on_gpus.device == "auto"
    assert "NCCL" in reason(on_gpus, "communication_pattern")


def test_a_world_of_another_size_than_the_file_says_is_told() -> None:
    choice = choose(ConfigFile(num_gpus=4), 2, has_gpus=False)
    assert "not used: the job was started with 2 ranks" in reason(choice, "num_gpus: 4")


def test_the_precisions_are_those_of_the_trainer(tmp_path: Path) -> None:
    for precision in PRECISIONS:
        assert read(tmp_path, f"precision: {precision}").precision == precision
