"""The batch script is exactly this text, whatever a value holds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dto.config.layers import make_layer
from dto.config.machine import Machine
from dto.config.resolve import Target, resolve
from dto.config.spec import JobSpec
from dto.errors import ConfigError
from dto.jobs.render import extra_options, quoted, render, signal_lead

RUN = Path("/runs/20260101-120000-train-0a1b")

GOLDEN = """\
#!/bin/bash
#SBATCH --comment=dto:20260101-120000-train-0a1b
#SBATCH --constraint='a100&ib'
#SBATCH --exclusive
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=B:USR1@150
#SBATCH --open-mode=append
#SBATCH --output=/runs/20260101-120000-train-0a1b/slurm-%j.out
#SBATCH --error=/runs/20260101-120000-train-0a1b/slurm-%j.err
# Run 20260101-120000-train-0a1b, submission 1. What it runs is in spec.json beside this script;
# `dto render --why` says where each value came from.
module load cuda
cd -- /runs/20260101-120000-train-0a1b/submission-1 || exit 1
# bash runs a trap only once `wait` returns, never while it waits on a foreground command.
job=
trap '[ -z "$job" ] || kill -USR1 "$job" 2>/dev/null' USR1
trap '[ -z "$job" ] || kill -TERM "$job" 2>/dev/null' TERM
/venv/bin/python -m dto.launch job --run /runs/20260101-120000-train-0a1b --submission 1 &
job=$!
while kill -0 "$job" 2>/dev/null; do wait "$job"; done
wait "$job" # the job's own code: a wait that a signal broke off returned 128 + n
exit $?
"""


def spec(scheduler: Any = "slurm", **flags: Any) -> JobSpec:
    command = {"script": "/x/train.py", "args": [], "cwd": "/x"}
    target = Target(scheduler, Machine(gpus=0, cpus=4))
    return resolve(command, [], target, [make_layer(flags, "flag")]).spec


def test_a_whole_batch_script() -> None:
    job = spec(
        nodes="2", gpus_per_node="4", cpus_per_rank="4", mem="64G", time="4h", partition="gpu",
        sbatch={"--constraint": "a100&ib", "exclusive": ""}, setup="module load cuda",
    )  # fmt: skip
    assert render(job, RUN, 1, "/venv/bin/python") == GOLDEN


def test_a_local_script_is_one_command() -> None:
    lines = render(spec("local"), RUN, 2, "/venv/bin/python").splitlines()
    assert lines[-2:] == [
        f"cd -- {RUN}/submission-2 || exit 1",
        f"exec /venv/bin/python -m dto.launch job --run {RUN} --submission 2",
    ]
    assert not any(line.startswith("#SBATCH") for line in lines)


def test_gpus_are_asked_for_as_the_site_wants_it() -> None:
    def lines(**flags: Any) -> str:
        return render(spec(gpus_per_node="2", **flags), RUN, 1, "python")

    assert "--gpus-per-node=2" in lines()
    assert "--gres=lustre:1,gpu:2" in lines(gpu_flag="gres", sbatch={"gres": "lustre:1"})
    assert "gpu" not in lines(gpu_flag="none", name="plain")


@pytest.mark.parametrize(
    "key", ["nodes", "--nodes", "job-name", "signal", "export", "output", "array", "cpus-per-task"]
)
def test_what_dto_sets_itself_is_refused_with_what_to_use(key: str) -> None:
    with pytest.raises(ConfigError, match=f"--sbatch {key.lstrip('-')}: dto sets .* itself; use"):
        extra_options({key: "1"})


@pytest.mark.parametrize(("key", "whole"), [("arr", "array"), ("sig", "signal"), ("tim", "time")])
def test_sbatchs_abbreviations_are_no_way_around(key: str, whole: str) -> None:
    with pytest.raises(ConfigError, match=f"--sbatch {key}: dto sets {whole} itself; use"):
        extra_options({key: "1"})


def test_a_longer_option_is_not_an_abbreviation() -> None:
    options = {"time-min": "5", "wait-all-nodes": "1", "mem-per-cpu": "1G", "exclusive": ""}
    assert extra_options(options) == options


@pytest.mark.parametrize("key", ["C", "", "a b", "x=y", "nodes\n", "Ünique", "NICE"])
def test_what_is_no_long_option_is_refused(key: str) -> None:
    with pytest.raises(ConfigError):
        extra_options({key: "1"})


def test_a_users_comment_replaces_ours() -> None:
    text = render(spec(sbatch={"comment": "mine; $(id)"}), RUN, 1, "python")
    assert "--comment='mine; $(id)'\n" in text and "dto:2026" not in text


def test_a_percent_sign_in_a_path_is_not_a_placeholder_of_slurm() -> None:
    text = render(spec(), Path("/runs/100%j/r"), 1, "python")
    assert "#SBATCH --output=/runs/100%%j/r/slurm-%j.out\n" in text


@pytest.mark.parametrize("path", ["/a\nb", "/a\rb", "/a\\b"])
def test_a_path_that_slurm_cannot_take_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        render(spec(), Path(path), 1, "python")


def test_a_backslash_is_doubled_for_slurm() -> None:
    assert quoted("a\\b") == "'a\\\\b'"
    assert quoted("plain") == "plain"


def test_the_warning_comes_before_a_save_would_start() -> None:
    assert signal_lead(spec(time="2")) == 45
    assert signal_lead(spec(time="24h")) == 150
    assert signal_lead(spec(save_budget="10m")) == 630


@pytest.mark.parametrize("scheduler", ["slurm", "local"])
def test_odd_paths_survive_bash(tmp_path: Path, scheduler: str) -> None:
    run = tmp_path / "a 'b' \"c\" $(id) `x` *;& caf\udce9"
    (run / "submission-1").mkdir(parents=True)
    script = os.fsencode(render(spec(scheduler), run, 1, "/bin/echo"))
    done = subprocess.run(["bash"], input=script, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = b"-m dto.launch job --run " + os.fsencode(run) + b" --submission 1\n"
    assert done.stdout == said


@pytest.mark.parametrize("code", [0, 3, 85, 138])
def test_the_batch_shell_returns_the_jobs_code_though_a_signal_broke_its_wait(
    tmp_path: Path, code: int
) -> None:
    (tmp_path / "submission-1").mkdir()
    job = tmp_path / "job"
    job.write_text(
        # a signal before the batch shell knows our pid would be dropped, on purpose
        "#!/bin/bash\ntrap 'echo usr1; got=1' USR1\nsleep 0.5; kill -USR1 $PPID\n"
        f"until [ -n \"$got\" ]; do sleep 0.05; done\nexit {code}\n"
    )
    job.chmod(0o755)
    script = os.fsencode(render(spec(), tmp_path, 1, str(job)))
    done = subprocess.run(["bash"], input=script, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (code, b"usr1\n")
