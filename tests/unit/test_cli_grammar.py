"""What comes before SCRIPT is dto's, what comes after is the script's; errors are one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dto.cli.main import COMMANDS, main


class Said:
    """What a command printed, and how it left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def dto(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("# dto: nodes=2\n")

    def call(*words: str) -> Said:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        out, err = capsys.readouterr()
        return Said(int(left.value.code or 0), out, err)

    return call


def rendered(dto: Any, *words: str) -> dict[str, Any]:
    said = dto("render", "--json", *words)
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


@pytest.mark.parametrize(
    "args",
    [
        ["-n", "7", "--nodes", "9"],
        ["--", "--x"],
        ["", " ", "a b", "$(id)", "caf\udce9", "\n", "-m", "--help"],
    ],
)
def test_everything_after_the_script_is_the_scripts(dto: Any, args: list[str]) -> None:
    found = rendered(dto, "-n", "2", "train.py", *args)["values"]
    assert found["args"] == args
    assert (found["ranks_per_node"], found["nodes"], found["module"]) == (2, 2, None)


def test_a_module_stands_for_the_script(dto: Any) -> None:
    found = rendered(dto, "-n", "2", "-m", "pkg.train", "-n", "3")["values"]
    assert (found["module"], found["args"], found["script"]) == ("pkg.train", ["-n", "3"], None)
    assert found["name"] == "pkg.train"


def test_the_header_of_a_module_counts(dto: Any, tmp_path: Path) -> None:
    assert rendered(dto, "-m", "train")["values"]["nodes"] == 2


def test_flags_beat_the_environment_and_why_shows_both(
    dto: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTO_TIME", "2h")
    monkeypatch.setenv("DTO_QOS", "low")
    said = dto("render", "--why", "-q", "high", "--env", "A=1", "train.py")
    rows = {line.split()[0]: line for line in said.out.splitlines()}
    assert rows["nodes"].endswith("script header train.py line 1")
    assert rows["time"].split()[1] == "7200" and rows["time"].endswith("environment DTO_TIME")
    assert rows["qos"].split()[1] == "high" and rows["qos"].endswith("flag --qos")
    assert rows["env.A"].endswith("flag --env")


def test_set_reaches_every_setting(dto: Any) -> None:
    found = rendered(dto, "--set", "heartbeat_timeout=5", "--set", "gpu-flag=gres", "train.py")
    assert (found["values"]["heartbeat_timeout"], found["values"]["gpu_flag"]) == (5.0, "gres")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["render", "none.py"], "script 'none.py' does not exist"),
        (["run", "none.py"], "script 'none.py' does not exist"),
        (["submit", ""], "script '' does not exist"),
        (["run", "."], "is a directory"),
        (["run", "/dev/null"], "is not a regular file"),
        (["run", "-m", ""], "is not a module's name"),
        (["run", "-m", "a/b.py"], "is not a module's name"),
        (["run"], "Missing argument 'SCRIPT'"),
        (["run", "-n", "0", "train.py"], "ranks_per_node: must be"),
        (["run", "-n", "100000", "train.py"], "ranks_per_node: must be"),
        (["run", "-n", "1000", "train.py"], "too many for this machine"),
        (["run", "-n", "two", "train.py"], "must be a whole number, not 'two'"),
        (["submit", "--name", "a/b", "train.py"], "name: must be 1 to 64 of"),
        (["submit", "--name", "a\nb", "train.py"], "name: must be"),
        (["submit", "--sbatch", "nodes=3", "train.py"], "use -N/--nodes"),
        (["submit", "--sbatch", "comment=a\nb", "train.py"], "sbatch"),
        (["submit", "--env", "A", "train.py"], "write it as NAME=VALUE"),
        (["submit", "--set", "nods=3", "train.py"], "did you mean 'nodes'"),
        (["submit", "--set", "nodes=3", "-N", "2", "train.py"], "leave one out"),
        (["submit", "--time", "soon", "train.py"], "'soon' is not a time"),
        (["submit", "--run-root", "a\nb", "train.py"], "run_root"),
        (["rendr", "train.py"], "did you mean 'render'"),
        (["render", "--nodse", "2", "train.py"], "--nodes"),
        (["status", "x"], "no runs in"),
        (["logs"], "no runs in"),
        (["stop", "latest"], "no runs in"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(dto: Any, words: list[str], hint: str) -> None:
    said = dto(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("dto: error: ") and said.err.count("\n") == 1
    assert hint in said.err
    assert not Path("runs").exists()


def test_a_script_that_cannot_be_read_is_named(dto: Any, tmp_path: Path) -> None:
    (tmp_path / "loop.py").symlink_to("loop.py")
    said = dto("run", "loop.py")
    assert said.code == 2 and "loop.py" in said.err and said.err.count("\n") == 1


def test_a_run_root_that_is_a_file_is_one_line(dto: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = dto("run", "--run-root", "file/runs", "train.py")
    assert said.code == 1 and said.err.count("\n") == 1 and "--run-root" in said.err


def test_no_sbatch_is_exit_code_three(dto: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    said = dto("submit", "train.py")
    assert said.code == 3 and "dto run" in said.err and said.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_dry_run_prints_the_script_and_writes_nothing(dto: Any) -> None:
    said = dto("submit", "--dry-run", "train.py", "a b")
    assert said.code == 0 and said.out.startswith("#!/bin/bash\n#SBATCH")
    assert "sbatch --parsable" in said.err
    assert said.out == dto("render", "train.py", "a b").out
    assert not Path("runs").exists()


def test_what_cannot_be_printed_as_unicode_is_printed_as_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "train.py").touch()
    command = [sys.executable, "-m", "dto.cli", "render", "train.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    assert done.returncode == 0 and b"caf\xe9" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(dto: Any, command: str) -> None:
    said = dto(command, "--help")
    assert said.code == 0 and said.out.startswith(f"Usage: dto {command}")
    assert COMMANDS[command][1]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\ntry:\n import dto.cli.main as m; m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'jinja2', 'yaml', 'torch', 'numpy', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
