"""The few questions a running job asks SLURM, and the requeue at its end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dto.launch.hostlist import expand_hostlist
from dto.launch.stopping import parse_time_left
from dto.runs.files import read_json, write_json

_QUESTION_SECONDS = 30.0
_PAUSE_SECONDS = 2.0
_PATIENCE_SECONDS = 600.0
"""How long a controller that is away, to restart perhaps, is asked to queue a job again."""
_UNREACHABLE = re.compile(
    r"unable to contact|connection refused|socket timed out|could not establish|no such host"
    r"|communication connection failure|configuration source|unable to establish"
    r"|unable to process configuration|standby mode|timed out after",
    re.IGNORECASE,
)


def is_unreachable(said: str) -> bool:
    """Tell a SLURM command that got no answer from one that was refused, by what it said."""
    return _UNREACHABLE.search(said) is not None


@dataclass(frozen=True)
class SlurmJob:
    """The allocation we are in."""

    job_id: str
    nodes: tuple[str, ...]
    cpus_per_task: str | None

    def deadline(self) -> float | None:
        """Return when the job's time is up (it may be changed while the job runs)."""
        left = _ask("squeue", "-h", "-j", self.job_id, "-o", "%L")
        seconds = parse_time_left(left) if left else None
        return None if seconds is None else time.time() + seconds

    def is_ending(self) -> bool:
        """Say whether SLURM already ends this job, so that it is not ours to queue again.

        After scancel, or where a preemption takes the job whole, the state is COMPLETING by the
        time SIGTERM comes; in the grace time of a preemption it is still RUNNING. A requeue of a
        COMPLETING job works: it would bring back what somebody has just cancelled. Where SLURM
        does not answer, it is not ending: a job that comes back can be cancelled again.
        """
        return _ask("squeue", "-h", "-j", self.job_id, "-o", "%T").strip() not in ("RUNNING", "")

    def requeue(self, job_script: Path) -> str:
        """Queue this job again and return its id.

        SLURM ends the batch script within a second of that, so this is its last action. Where a
        site forbids requeueing, the same script is submitted to start after this job; where SLURM
        does not answer, it is asked again, and "" is returned if it never does.
        """
        end, was_lost = time.monotonic() + _PATIENCE_SECONDS, False
        while (done := _run("scontrol", "requeue", self.job_id)).returncode != 0:
            if not is_unreachable(done.stderr):
                break
            if time.monotonic() > end:
                return ""
            was_lost = True
            time.sleep(_PAUSE_SECONDS)
        if done.returncode == 0 or (was_lost and self.is_ending()):  # the answer alone was lost
            return self.job_id
        return self._submit_again(job_script)

    def _submit_again(self, job_script: Path) -> str:
        words = ["sbatch", "--parsable", f"--dependency=afterany:{self.job_id}"]
        again = _run(*words, script=job_script.read_text(errors="surrogateescape"))
        job_id = again.stdout.strip().partition(";")[0]
        if again.returncode != 0 or not job_id.isdigit():
            return ""
        path = job_script.parent / "job.json"
        record = read_json(path) or {}
        log = job_script.parents[1] / f"slurm-{job_id}.out"
        earlier = [*record.get("earlier_ids", ()), self.job_id]
        write_json(path, {**record, "job_id": job_id, "earlier_ids": earlier, "log": str(log)})
        return job_id


_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS")
_SCRUBBED = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_")


def current_job(env: Mapping[str, str]) -> SlurmJob | None:
    """Return the allocation that this process runs in, if it can be used."""
    job_id = env.get("SLURM_JOB_ID")
    if not job_id or shutil.which("srun", path=env.get("PATH")) is None:
        return None
    nodes = tuple(expand_hostlist(env.get("SLURM_JOB_NODELIST", "")))
    return SlurmJob(job_id, nodes, env.get("SLURM_CPUS_PER_TASK"))


def node_address(node: str) -> str:
    """Return the address SLURM itself uses for a node, "" if it does not say."""
    words = _ask("scontrol", "show", "node", node).split()
    return next((w.partition("=")[2] for w in words if w.startswith("NodeAddr=")), "")


def _ask(*argv: str) -> str:
    done = _run(*argv)
    return done.stdout if done.returncode == 0 else ""


def _run(*argv: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Ask without what the job's own environment would add, such as SQUEUE_STATES."""
    env = {k: v for k, v in os.environ.items() if k in _KEPT or not k.startswith(_SCRUBBED)}
    try:
        return subprocess.run(
            argv,
            input=script,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=env,
            timeout=_QUESTION_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))
