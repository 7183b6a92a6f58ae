"""Where everything about one run lies, and how a run is named and found (design: contract 1)."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from dto.errors import DtoError, UsageError
from dto.runs.files import read_json

NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
RUN_ID_PATTERN = re.compile(r"\d{8}-\d{6}-.{1,64}-[0-9a-f]{4}")


@dataclass(frozen=True)
class Attempt:
    """One try at a run: its journal, its logs, its verdict. Made by one mkdir, so never shared."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name.removeprefix("attempt-"))

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    def rank_log(self, rank: int, generation: int) -> Path:
        return self.path / f"rank-{rank}.g{generation}.log"

    def agent_log(self, node: str) -> Path:
        return self.path / f"agent-{node}.log"

    def spill(self, node: str) -> Path:
        return self.path / f"spill-{node}.jsonl"


@dataclass(frozen=True)
class Run:
    """One run's directory, kept across submissions, attempts and resumes."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def name(self) -> str:
        """The job name inside the id: `20260101-120000-NAME-0a1b`."""
        return self.id[16:-5]

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def requests(self) -> Path:
        return self.path / "requests"

    @property
    def code(self) -> Path:
        return self.path / "code"

    def submissions(self) -> list[int]:
        return _numbers(self.path, "submission-")

    def submission(self, number: int) -> Path:
        return self.path / f"submission-{number}"

    def attempts(self) -> list[int]:
        return _numbers(self.path, "attempt-")

    def attempt(self, number: int) -> Attempt:
        return Attempt(self.path / f"attempt-{number}")

    def add_submission(self, after: int | None = None) -> int:
        """Claim the next submission; with `after`, only the very next one to that.

        Raises:
            DtoError: somebody else claimed it in the meantime.
        """
        if after is None:
            return _claim(self.path, "submission-")
        if not _make(self.submission(after + 1)):
            raise DtoError(f"run {self.id} was resumed by another `dto resume` in this moment")
        return after + 1

    def claim_attempt(self) -> Attempt:
        return self.attempt(_claim(self.path, "attempt-"))


def create_run(run_root: Path, name: str) -> Run:
    """Make the directory of a new run, mode 0700.

    Raises:
        DtoError: the root cannot be made or written, or its disk is full.
        UsageError: the name holds characters that a path, a log or SLURM would trip over.
    """
    check_name(name)
    try:
        run_root.mkdir(parents=True, exist_ok=True)
        while True:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            run = Run(run_root.resolve() / f"{stamp}-{name}-{secrets.token_hex(2)}")
            try:
                run.path.mkdir(mode=0o700)
            except FileExistsError:
                continue
            run.requests.mkdir()
            run.checkpoints.mkdir()
            return run
    except OSError as error:
        raise cannot_write(run_root, error) from None


def check_name(name: str) -> None:
    if not NAME_PATTERN.fullmatch(name):
        raise UsageError(
            f"job name {name!r} cannot be used: take 1 to 64 of A-Z a-z 0-9 . _ - "
            "and start with a letter, a digit or _"
        )


def cannot_write(path: Path, error: OSError) -> DtoError:
    """Say in one line why a run cannot be written and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DtoError(f"no space left in {path}: free some, or choose another --run-root")
    return DtoError(f"cannot write runs in {path} ({error.strerror}): choose another --run-root")


def list_runs(run_root: Path) -> list[Run]:
    """Return the runs of a root, newest first."""
    try:
        names = [entry.name for entry in os.scandir(run_root) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        Run(run_root.resolve() / name)
        for name in sorted(names, reverse=True)
        if RUN_ID_PATTERN.fullmatch(name)
    ]


def find_run(run_root: Path, text: str) -> Run:
    """Return the run that a person means.

    An id or its unique beginning, a path, `latest`, a job name, a SLURM job id.
    """
    as_path = Path(text)
    if "/" in text and RUN_ID_PATTERN.fullmatch(as_path.resolve().name) and as_path.is_dir():
        return Run(as_path.resolve())
    runs = list_runs(run_root)
    if not runs:
        raise UsageError(f"no runs in {run_root}: start one with `dto run`, or name its --run-root")
    if text == "latest":
        return runs[0]
    exact = [run for run in runs if run.id == text or run.name == text]
    if exact:
        return exact[0]
    by_job = [run for run in runs if text in _job_ids(run)] if text.isdigit() else []
    found = by_job or [run for run in runs if text and run.id.startswith(text)]
    if len(found) == 1 or by_job:
        return found[0]
    near = found or runs
    some = ", ".join(run.id for run in near[:3])
    problem = "fits several runs" if found else f"is no run in {run_root}"
    raise UsageError(f"{text!r} {problem}; did you mean one of: {some}? (`dto ls` lists all)")


def _job_ids(run: Run) -> set[str]:
    """Return the ids that a run has or had: where requeueing is forbidden, each attempt's own."""
    records = [read_json(run.submission(j) / "job.json") or {} for j in run.submissions()]
    ids = [job_id for r in records for job_id in (r.get("job_id"), *r.get("earlier_ids", ()))]
    return {str(job_id) for job_id in ids if job_id}


def _numbers(path: Path, prefix: str) -> list[int]:
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return []
    tails = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return sorted(int(tail) for tail in tails if tail.isdigit())


def _claim(path: Path, prefix: str) -> int:
    """Make the next numbered directory. mkdir is atomic on NFS too, so two claimants differ."""
    number = max(_numbers(path, prefix), default=0) + 1
    while True:
        if _make(path / f"{prefix}{number}"):
            return number
        number += 1


def _make(directory: Path) -> bool:
    """Make a directory; False where somebody else was faster."""
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise cannot_write(directory.parent, error) from None
    return True
