"""The job: claims an attempt, coordinates it, writes its verdict, and goes on where that is due."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dto.errors import DtoError, PreflightError
from dto.launch.coordinator import Coordinator, Setting
from dto.launch.network import own_addresses
from dto.launch.notes import Notes, Progress
from dto.launch.outcome import Ended, Outcome, decide
from dto.launch.slurm import SlurmJob, current_job, node_address
from dto.launch.spec import Spec, read_spec
from dto.launch.starters import LocalStarter, SrunStarter, Starter
from dto.launch.watch import StopWatch
from dto.runs.files import write_json
from dto.runs.paths import Attempt, Run
from dto.runs.state import commit_key, committed
from dto.runs.verdict import Verdict

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Place:
    """Where this job runs: the run, its submission, and SLURM's allocation if there is one."""

    run: Run
    submission: int
    spec: Spec
    slurm: SlurmJob | None

    @property
    def directory(self) -> Path:
        return self.run.submission(self.submission)

    @property
    def is_batch(self) -> bool:
        """SLURM started us from a script it can start again."""
        return self.slurm is not None and self.spec.scheduler == "slurm"


def run_job(run: Run, submission: int) -> int:
    """Run attempts until one is final; return the job's exit code (design: contract 4)."""
    spec = read_spec(run.submission(submission))
    place = Place(run, submission, spec, current_job(os.environ))
    while True:
        attempt = run.claim_attempt()
        outcome = _run_attempt(place, attempt)
        if outcome.then == "leave":
            return outcome.exit_code
        if place.is_batch:
            _requeue(place, attempt)
            return outcome.exit_code


def _run_attempt(place: Place, attempt: Attempt) -> Outcome:
    progress = Progress(sys.stderr)
    job_id = place.slurm.job_id if place.slurm else None
    notes = Notes(attempt, place.submission, job_id)
    began, spec = time.time(), place.spec
    known = committed(place.run.checkpoints)
    watch = _stop_watch(place, began)
    setting = _setting(place, attempt)
    progress.say(f"run {place.run.path}, attempt {attempt.number}, {_ranks(spec)}")
    coordinator = Coordinator(setting, notes, progress, watch)
    try:
        ended = asyncio.run(_coordinate(coordinator, watch, setting.has_terminal))
    except PreflightError as error:
        ended = Ended(Verdict(False, error.exit_code, str(error), "start-failed"))
    late = watch.asked()  # while the last rank saved
    if late is not None:
        ended = replace(ended, order=late)
    newest = _newest_commit(place.run, attempt)
    is_progress = newest is not None and _step(newest) > max(map(_step, known[-1:]), default=-1)
    outcome = decide(ended, _may_requeue(place), newest, is_progress, place.is_batch)
    more = {
        "last_step": notes.last_step,
        "commit": newest or (known[-1] if known else None),
        "world": spec.world,
        "seconds": round(time.time() - began, 3),
    }
    try:
        write_json(attempt.result_file, outcome.to_json(more))
    except OSError as error:
        progress.say(f"the verdict could not be written ({error.strerror}): {attempt.result_file}")
    notes.write("event", name="result", text=outcome.text)
    notes.close()
    _tell(progress, place.run, outcome)
    return outcome


async def _coordinate(coordinator: Coordinator, watch: StopWatch, has_terminal: bool) -> Ended:
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        order = watch.on_signal(number)
        if order is not None:
            coordinator.order(order)

    for number in _SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:  # nohup, or a shell's background job
            continue
        if number == signal.SIGINT and has_terminal:  # the script on the terminal gets it itself
            loop.add_signal_handler(number, lambda: None)
        else:
            loop.add_signal_handler(number, on_signal, number)
    return await coordinator.run()


def _setting(place: Place, attempt: Attempt) -> Setting:
    spec, slurm = place.spec, place.slurm
    starter: Starter
    if slurm is None:
        starter = LocalStarter(spec.nodes, attempt.path)
    else:
        starter = SrunStarter(slurm, spec.nodes, attempt.path)
    return Setting(
        spec=spec,
        attempt=attempt,
        submission=place.directory,
        starter=starter,
        expected_nodes=slurm.nodes if slurm else (),
        bind="127.0.0.1" if slurm is None else "0.0.0.0",
        has_terminal=slurm is None and spec.world == 1 and sys.stdin.isatty(),
        addresses=lambda: _addresses(slurm),
    )


def _addresses(slurm: SlurmJob | None) -> list[str]:
    """Return where agents may find us, the likeliest first and loopback last."""
    if slurm is None:
        return ["127.0.0.1"]
    node = os.environ.get("SLURMD_NODENAME", "")
    named = [node, node_address(node)] if node else []
    own = [address for _, address in own_addresses()]
    return list(dict.fromkeys(host for host in [*named, *own] if host))


def _stop_watch(place: Place, began: float) -> StopWatch:
    spec, slurm = place.spec, place.slurm
    if slurm is not None:
        is_ending = slurm.is_ending if place.is_batch else None
        return StopWatch(place.run, slurm.deadline, spec.time_seconds, spec.save_budget, is_ending)
    end = None if spec.time_seconds is None else began + spec.time_seconds
    return StopWatch(place.run, lambda: end, spec.time_seconds, spec.save_budget)


def _may_requeue(place: Place) -> bool:
    """A batch job may be queued again; here, only our own time limit leads to another attempt."""
    return place.spec.requeue and (place.is_batch or place.slurm is None)


def _requeue(place: Place, attempt: Attempt) -> None:
    """The last action of all: SLURM ends this process within a second of it."""
    assert place.slurm is not None
    job_id = place.slurm.requeue(place.directory / "job.sh")
    if not job_id:
        raise DtoError(f"SLURM did not queue the job again: dto resume {place.run.id}")
    if job_id != place.slurm.job_id:
        notes = Notes(attempt, place.submission, job_id)
        notes.write("event", name="requeued", text=f"goes on as job {job_id}")
        notes.close()


def _newest_commit(run: Run, attempt: Attempt) -> str | None:
    """Return the newest checkpoint that this very attempt made."""
    names: Sequence[str] = committed(run.checkpoints)
    mine = [name for name in names if (commit_key(name) or (0,))[0] == attempt.number]
    return mine[-1] if mine else None


def _step(commit: str) -> int:
    _, _, step = commit_key(commit) or (0, 0, 0)
    return step


def _ranks(spec: Spec) -> str:
    nodes = f" on {spec.nodes} nodes" if spec.nodes > 1 else ""
    return f"{spec.world} rank{'s' if spec.world > 1 else ''}{nodes}"


def _tell(progress: Progress, run: Run, outcome: Outcome) -> None:
    progress.say(f"{outcome.state}: {outcome.text}")
    if outcome.verdict.message and not outcome.verdict.error_type:
        progress.say(f"the last line it wrote: {outcome.verdict.message}")
    progress.say(f"log: dto logs {run.id}")
    if outcome.state not in ("COMPLETED", "PREEMPTED"):
        progress.say(f"resume: dto resume {run.id}")
