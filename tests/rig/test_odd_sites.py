"""What sites and operators do to a job: requeue forbidden, suspended, SLURM away, jobs in jobs."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from dto.runs.files import read_rows
from tests.helpers import PROGRAMS, dto, wait_for
from tests.rig.rig import Rig
from tests.rig.test_limits import SAMPLES, read_samples
from tests.rig.test_submit import ended, state, submit

pytestmark = [pytest.mark.rig, pytest.mark.timeout(150)]


def test_where_requeueing_is_refused_the_run_goes_on_under_a_new_job_id(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "bin" / "scontrol"
    refusing.parent.mkdir()
    real = shutil.which("scontrol", path=rig.env()["PATH"])
    refusing.write_text(f'#!/bin/bash\n[ "$1" != requeue ] && exec {real} "$@"\nexit 1\n')
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing.parent}:{os.environ['PATH']}")
    out = tmp_path / "out"
    job = submit(rig, tmp_path, PROGRAMS / "steady.py", out, "--every", "15m", "--pace", "0.3")
    wait_for(lambda: (state(rig, tmp_path, job["run"])["step"] or 0) >= 3, timeout=60, every=0.5)  # type: ignore[operator]
    rig.run("scancel", "--batch", "--signal=TERM", job["job_id"])
    wait_for(lambda: state(rig, tmp_path, job["run"])["attempt"] == 2, timeout=60, every=0.5)
    by_old_id = state(rig, tmp_path, job["job_id"])
    assert by_old_id["job_id"] != job["job_id"]
    assert str(by_old_id["log"]).endswith(f"slurm-{by_old_id['job_id']}.out")
    assert ended(rig, tmp_path, str(by_old_id["job_id"]))["state"] == "COMPLETED"
    assert read_samples(out) == Counter({sample: 4 for sample in range(SAMPLES)})


def test_a_job_preempted_while_slurm_is_away_goes_on_when_it_is_back(
    rig: Rig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = submit(rig, tmp_path, PROGRAMS / "steady.py", out, "--every", "15m", "--pace", "0.3")
    wait_for(lambda: (state(rig, tmp_path, job["run"])["step"] or 0) >= 3, timeout=60, every=0.5)  # type: ignore[operator]
    rig.lose_controller()
    [attempt] = tmp_path.glob(f"**/{job['run']}/attempt-1")
    begun = [row for row in read_rows(attempt / "journal.jsonl") if row.get("pid")]
    os.kill(int(begun[0]["pid"]), signal.SIGTERM)
    wait_for((attempt / "result.json").exists, timeout=60)
    time.sleep(5)  # it asks in vain meanwhile
    rig.start_controller()
    wait_for(lambda: state(rig, tmp_path, job["run"])["attempt"] == 2, timeout=90, every=0.5)
    status = ended(rig, tmp_path, job["run"])
    assert (status["state"], status["job_id"]) == ("COMPLETED", job["job_id"])
    assert read_samples(out) == Counter({sample: 4 for sample in range(SAMPLES)})


def test_a_suspended_job_goes_on_where_it_was(rig: Rig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = submit(rig, tmp_path, "-N", "2", "--set", "heartbeat_timeout=3", PROGRAMS / "steady.py",
                 out, "--epochs", "1", "--every", "15m", "--pace", "0.5")  # fmt: skip
    wait_for(lambda: (state(rig, tmp_path, job["run"])["step"] or 0) >= 2, timeout=60, every=0.5)  # type: ignore[operator]
    assert rig.run("scontrol", "suspend", job["job_id"]).returncode == 0
    time.sleep(10)  # longer than agents and coordinator would wait for each other
    assert state(rig, tmp_path, job["run"])["text"] == "suspended by SLURM"
    assert rig.run("scontrol", "resume", job["job_id"]).returncode == 0
    status = ended(rig, tmp_path, job["run"])
    assert (status["state"], status["attempt"]) == ("COMPLETED", 1)
    assert read_samples(out) == Counter(range(SAMPLES))


def test_with_slurm_away_the_run_directory_answers(rig: Rig, tmp_path: Path) -> None:
    job = submit(rig, tmp_path, "--sbatch", "hold", PROGRAMS / "world.py")
    away = tmp_path / "slurm.conf"
    port = next(
        line for line in rig.conf.read_text().splitlines() if line.startswith("SlurmctldPort")
    )
    text = rig.conf.read_text().replace(port, "SlurmctldPort=1")
    away.write_text(text + "\nMessageTimeout=2\n")
    env = {**rig.env(), "SLURM_CONF": str(away)}
    place = ("--run-root", tmp_path)
    asked = dto("status", job["run"], *place, "--json", env=env)
    assert asked.returncode == 0 and '"state": "QUEUED"' in asked.stdout, asked.stderr
    assert "SLURM cannot be reached" in asked.stderr
    for words in (("cancel", job["run"]), ("submit", PROGRAMS / "world.py")):
        done = dto(words[0], *place, *words[1:], env=env, cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
    assert dto("cancel", job["run"], *place, env=rig.env()).returncode == 0


def test_a_job_submitted_by_a_rank_is_a_job_of_its_own(rig: Rig, tmp_path: Path) -> None:
    outer = tmp_path / "outer.py"
    outer.write_text(
        "import subprocess, sys\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'dto.cli', 'submit', '-N', '2', '-J', "
        f"'inner', '--run-root', {str(tmp_path)!r}, {str(PROGRAMS / 'world.py')!r}]))\n"
    )
    done = dto("run", "-n", "1", "--run-root", tmp_path, outer, env=rig.env(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    status = ended(rig, tmp_path, "inner")
    assert (status["state"], status["nodes"]) == ("COMPLETED", ["n1", "n2"])
