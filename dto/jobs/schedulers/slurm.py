"""SLURM by its own commands, in text: the one interface that every version and site has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from dto.errors import ClusterError, SchedulerError
from dto.jobs.schedulers.base import QueueEntry, outside_environment
from dto.launch.slurm import is_unreachable

_TIMEOUT_SECONDS = 60
_FORMAT = "%i|%T|%r|%S|%L|%N"
_STRAY = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_", "SACCT_", "SINFO_", "SALLOC_")
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS"}


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Drop what an enclosing job or a shell profile would add to every request.

    A stray SBATCH_TIMELIMIT wins over #SBATCH lines without a word, and SLURM_* of a parent job
    make the child's srun ask for the parent's GPUs.
    """
    outside = outside_environment(env)
    return {k: v for k, v in outside.items() if k in _KEPT or not k.startswith(_STRAY)}


class Slurm:
    """The cluster that this machine's SLURM commands talk to."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = clean_environment(os.environ if env is None else env)

    def command(self) -> list[str]:
        return ["sbatch", "--parsable"]

    def submit(self, script: bytes) -> str:
        answer = self._ask(self.command(), script).stdout.strip()
        job_id = answer.splitlines()[-1].partition(";")[0] if answer else ""
        if not job_id.isdigit():
            raise SchedulerError(f"sbatch answered {answer!r} instead of a job id")
        return job_id

    def nodes_of(self, partition: str | None) -> int | None:
        done = self._ask(["sinfo", "--noheader", "--format=%P|%D"], b"", may_fail=True)
        wanted = partition.split(",") if partition else []
        counts = [
            int(nodes)
            for label, nodes in (line.rsplit("|", 1) for line in done.stdout.splitlines())
            if label.removesuffix("*") in wanted or (not wanted and label.endswith("*"))
        ]
        return sum(counts) if counts and done.returncode == 0 else None

    def test(self, script: bytes) -> str:
        done = self._ask([*self.command(), "--test-only"], script)
        return _words(done.stderr or done.stdout)

    def query(self, job_ids: list[str]) -> dict[str, QueueEntry]:
        wanted = [job_id for job_id in job_ids if job_id.isdigit()]
        if not wanted:
            return {}
        # One unknown id among several is skipped in silence, one alone is an error, so ask for
        # two; --states=all also shows the jobs that ended within MinJobAge.
        listed = ",".join(wanted if len(wanted) > 1 else [*wanted, *wanted])
        words = ["squeue", "--noheader", "--states=all", f"--format={_FORMAT}", f"--jobs={listed}"]
        done = self._ask(words, b"", may_fail=True)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise _failure(words[0], done)
        entries = (_entry(line) for line in done.stdout.splitlines())
        return {entry.job_id: entry for entry in entries if entry is not None}

    def cancel(self, job_id: str) -> None:
        self._ask(["scancel", job_id], b"")

    def _ask(
        self, words: Sequence[str], script: bytes, may_fail: bool = False
    ) -> subprocess.CompletedProcess[str]:
        program = shutil.which(words[0], path=self._env.get("PATH"))
        if program is None:
            raise ClusterError(
                f"{words[0]} is not on PATH, so no SLURM cluster can be reached from here: log in "
                "to the cluster, or train on this machine with `dto run`"
            )
        try:
            done = subprocess.run(
                [program, *words[1:]],
                input=script,
                capture_output=True,
                env=self._env,
                timeout=_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"{words[0]} did not answer within {_TIMEOUT_SECONDS} s: is slurmctld up? (`sinfo`)"
            ) from None
        text = subprocess.CompletedProcess(
            done.args, done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr)
        )
        if text.returncode and not may_fail:
            raise _failure(words[0], text)
        return text


def _failure(program: str, done: subprocess.CompletedProcess[str]) -> ClusterError | SchedulerError:
    said = _words(done.stderr) or f"exit code {done.returncode}"
    if is_unreachable(said):
        return ClusterError(f"SLURM cannot be reached: {said}")
    return SchedulerError(f"{program} refused: {said}")


def _words(text: str) -> str:
    """Return what a SLURM command said, as one line without its own name."""
    lines = (re.sub(r"^\w+: (error: )?", "", line).strip() for line in text.splitlines())
    return "; ".join(line for line in lines if line)


def _entry(line: str) -> QueueEntry | None:
    parts = line.split("|")
    return QueueEntry(*parts) if len(parts) == 6 else None
