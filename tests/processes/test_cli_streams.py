"""`dto run` where its output has no place: closed, a full disk, a reader that left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dto.errors import DtoError
from dto.runs.paths import create_run
from tests.helpers import dto

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]


def shell(folder: Path, redirections: str, *words: str) -> subprocess.CompletedProcess[str]:
    line = f'exec "$0" -m dto.cli "$@" {redirections}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, *words], cwd=folder, env=dict(os.environ), text=True,
        capture_output=True, timeout=50,
    )  # fmt: skip


@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_run_goes_on_whatever_becomes_of_its_console(tmp_path: Path, redirections: str) -> None:
    (tmp_path / "hi.py").write_text("print('hi')\n")
    done = shell(tmp_path, redirections, "run", "-n", "2", "hi.py")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    [log] = tmp_path.glob("runs/*/attempt-1/rank-1.g0.log")
    assert log.read_text() == "hi\n"


def test_a_list_that_finds_no_place_is_one_line(tmp_path: Path) -> None:
    done = shell(tmp_path, ">/dev/full", "ls")
    assert (done.returncode, done.stderr) == (1, "dto: error: No space left on device\n")


def test_a_directory_that_was_deleted_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = 'rmdir "$PWD" && exec "$0" -m dto.cli ls'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable], cwd=gone, text=True, capture_output=True, timeout=50
    )
    assert done.returncode == 2
    [said] = done.stderr.splitlines()
    assert "the current directory was deleted" in said


def test_of_two_who_resume_at_once_one_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "once.py"
    script.write_text("import os, sys, time\ntime.sleep(2)\nsys.exit('GOOD' not in os.environ)\n")
    root = ("--run-root", tmp_path / "runs")
    assert dto("run", *root, script, cwd=tmp_path).returncode == 1
    done: list[subprocess.CompletedProcess[str]] = []

    def resume() -> None:
        done.append(dto("resume", *root, "--env", "GOOD=1", cwd=tmp_path))

    both = [threading.Thread(target=resume) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(one.returncode for one in done) == [0, 1]
    assert len(list(tmp_path.glob("runs/*/attempt-*"))) == 2


def test_the_next_submission_is_claimed_once(tmp_path: Path) -> None:
    run = create_run(tmp_path, "a")
    assert run.add_submission() == 1
    assert run.add_submission(after=1) == 2
    with pytest.raises(DtoError, match="another `dto resume`"):
        run.add_submission(after=1)
