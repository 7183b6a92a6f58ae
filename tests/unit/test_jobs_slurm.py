"""SLURM's commands are asked in clean surroundings, and their refusals passed on in their words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dto.errors import ClusterError, DtoError, SchedulerError
from dto.jobs.schedulers.slurm import Slurm, clean_environment
from dto.launch.slurm import SlurmJob
from dto.runs.files import read_json, write_json
from dto.runs.paths import create_run, find_run


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text("#!/bin/bash\n" + text)
    (folder / name).chmod(0o755)


def slurm(folder: Path, **env: str) -> Slurm:
    return Slurm({"PATH": f"{folder}:{os.environ['PATH']}", **env})


def test_an_enclosing_job_leaves_no_trace() -> None:
    env = {"SLURM_JOB_ID": "1", "SBATCH_TIMELIMIT": "5", "SRUN_X": "1", "SQUEUE_FORMAT": "%i"}
    kept = {"SLURM_CONF": "/etc/x", "SLURM_JWT": "t", "PATH": "/bin", "DTO_NODES": "2"}
    assert clean_environment({**env, **kept}) == kept
    rank = {"DTO_RUN_DIR": "/runs/x", "DTO_NODE": "n1", "GLOO_SOCKET_IFNAME": "lo"}
    assert clean_environment({**rank, **kept}) == kept


def test_where_requeueing_is_refused_the_script_is_submitted_behind_the_job(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "scontrol", "exit 1")
    record = f'{{ echo "$@ [$SLURM_NTASKS]"; cat; }} >{tmp_path}/asked'
    program(programs, "sbatch", f"{record}; echo '9;cluster'")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_NTASKS", "3")
    run = create_run(tmp_path, "again")
    folder = run.submission(run.add_submission())
    (folder / "job.sh").write_text("#!/bin/bash\n")
    write_json(folder / "job.json", {"scheduler": "slurm", "job_id": "8", "log": "slurm-8.out"})
    assert SlurmJob("8", ("n1",), None).requeue(folder / "job.sh") == "9"
    asked = (tmp_path / "asked").read_text()
    assert asked == "--parsable --dependency=afterany:8 []\n#!/bin/bash\n"
    assert read_json(folder / "job.json")["log"] == str(run.path / "slurm-9.out")
    assert find_run(tmp_path, "9") == find_run(tmp_path, "8") == run
    program(programs, "sbatch", "exit 1")
    assert SlurmJob("9", ("n1",), None).requeue(folder / "job.sh") == ""


@pytest.mark.parametrize("answer", ["17", "17;cluster", "sbatch: note\n17"])
def test_the_job_id_is_found_in_the_answer(programs: Path, answer: str) -> None:
    program(programs, "sbatch", f"cat > {programs}/got; printf '%s\\n' '{answer}'\n")
    assert slurm(programs).submit(b"caf\xe9\n") == "17"
    assert (programs / "got").read_bytes() == b"caf\xe9\n"


def test_a_refusal_is_one_line_of_slurms_own_words(programs: Path) -> None:
    text = "sbatch: error: invalid partition: x\\nsbatch: error: Batch job submission failed\\n"
    program(programs, "sbatch", f"printf '{text}' >&2; exit 1\n")
    with pytest.raises(SchedulerError) as caught:
        slurm(programs).submit(b"")
    words = "sbatch refused: invalid partition: x; Batch job submission failed"
    assert str(caught.value) == words


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller",
        "sbatch: error: resolve_ctls_from_dns_srv\\nfatal: Unable to process configuration file",
    ],
)
def test_a_controller_that_is_away_is_a_cluster_error(programs: Path, words: str) -> None:
    program(programs, "sbatch", f"printf '{words}' >&2; exit 1\n")
    with pytest.raises(ClusterError, match="SLURM cannot be reached"):
        slurm(programs).submit(b"")


def test_no_slurm_here_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="sbatch is not on PATH.*dto run"):
        Slurm({"PATH": str(tmp_path)}).submit(b"")


@pytest.mark.parametrize("answer", ["", "hello"])
def test_an_answer_without_an_id_is_an_error(programs: Path, answer: str) -> None:
    program(programs, "sbatch", f"echo {answer}\n")
    with pytest.raises(DtoError, match="instead of a job id"):
        slurm(programs).submit(b"")


def test_the_queue_is_read_as_text(programs: Path) -> None:
    line = "7|PENDING|Resources|2026-01-01T10:00:00|1:00|n[1-2]"
    program(programs, "squeue", f'echo "$@" > {programs}/asked; echo "{line}"; echo junk\n')
    found = slurm(programs).query(["7", "none"])
    assert (found["7"].state, found["7"].reason, found["7"].nodes) == (
        "PENDING",
        "Resources",
        "n[1-2]",
    )
    assert "--jobs=7,7" in (programs / "asked").read_text()


def test_a_job_that_slurm_forgot_is_no_error(programs: Path) -> None:
    text = "slurm_load_jobs error: Invalid job id specified"
    program(programs, "squeue", f"echo '{text}' >&2; exit 1\n")
    assert slurm(programs).query(["7"]) == {}
    assert slurm(programs).query([]) == {}


def test_a_queue_that_cannot_be_asked_is_an_error(programs: Path) -> None:
    program(programs, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(ClusterError):
        slurm(programs).query(["7"])


def test_the_size_of_a_partition_sums_its_lines(programs: Path) -> None:
    program(programs, "sinfo", "printf 'gpu*|3\\ngpu*|1\\ncpu|9\\n'\n")
    here = slurm(programs)
    assert (here.nodes_of(None), here.nodes_of("gpu"), here.nodes_of("cpu,gpu")) == (4, 4, 13)
    assert here.nodes_of("none") is None
