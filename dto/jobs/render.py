"""A job's script, exactly as the scheduler gets it. Pure: same job, same text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from dto.config.durations import slurm_time
from dto.config.spec import JobSpec
from dto.errors import ConfigError

MARGIN_SECONDS = 30

_OWNED = {
    "job-name": "--name",
    "nodes": "-N/--nodes",
    "time": "-t/--time",
    "partition": "-p/--partition",
    "account": "-A/--account",
    "qos": "-q/--qos",
    "mem": "--mem",
    "ntasks": "-N/--nodes and -n/--ranks-per-node",
    "ntasks-per-node": "-n/--ranks-per-node",
    "tasks-per-node": "-n/--ranks-per-node",
    "cpus-per-task": "--cpus-per-rank",
    "gpus": "-g/--gpus-per-node",
    "gpus-per-node": "-g/--gpus-per-node",
    "gpus-per-task": "-g/--gpus-per-node",
    "requeue": "--requeue",
    "no-requeue": "--no-requeue",
    "signal": "--save-budget",
    "export": "--env NAME=VALUE",
    "export-file": "--env NAME=VALUE",
    "chdir": "the directory that you type the command in",
    "output": "`dto logs`: it lies in the run directory",
    "error": "`dto logs`: it lies in the run directory",
    "open-mode": "nothing: logs are always appended to",
    "clusters": "SLURM_CLUSTERS in the environment",
    "array": "one submission for each job",
    "parsable": "--json",
    "test-only": "--test-only",
    "wait": "--follow",
    "wrap": "a script",
}


def render(spec: JobSpec, run: Path, submission: int, python: str) -> str:
    """Return job.sh for submission `submission` of the run in directory `run`.

    `python` is the interpreter that has dto; the ranks' own may be another one.

    Raises:
        ConfigError: a path or an extra option cannot be put into a batch script.
    """
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in f"{run}{python}"):
        raise ConfigError(f"a control character in the path {str(run)!r}: choose another place")
    if spec.scheduler == "slurm" and "\\" in str(run):
        raise ConfigError(f"SLURM cannot write logs below {run}: no backslash in --run-root")
    folder = run / f"submission-{submission}"
    words = [python, "-m", "dto.launch", "job", "--run", str(run), "--submission", str(submission)]
    return _template(f"job.{spec.scheduler}.sh.j2").render(
        directives=directives(spec, run) if spec.scheduler == "slurm" else (),
        run_id=run.name,
        submission=submission,
        setup=spec.setup,
        folder=shlex.quote(str(folder)),
        command=shlex.join(words),
    )


def directives(spec: JobSpec, run: Path) -> list[str]:
    """Return what follows `#SBATCH` on each line; later lines win, so ours come last."""
    lines = {
        "comment": f"dto:{run.name}",
        **extra_options(spec.sbatch),
        "job-name": spec.name,
        "nodes": str(spec.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(spec.ranks_per_node * (spec.cpus_per_rank or 1)),
        **_gpus(spec),
        **({"mem": spec.mem} if spec.mem else {}),
        **({"time": slurm_time(spec.time_seconds)} if spec.time_seconds else {}),
        **({"partition": spec.partition} if spec.partition else {}),
        **({"account": spec.account} if spec.account else {}),
        **({"qos": spec.qos} if spec.qos else {}),
        "requeue" if spec.requeue else "no-requeue": "",
        "signal": f"B:USR1@{signal_lead(spec)}",
        "open-mode": "append",
        # %j is ours; a % of the user's would be another of SLURM's placeholders
        "output": str(run).replace("%", "%%") + "/slurm-%j.out",
        "error": str(run).replace("%", "%%") + "/slurm-%j.err",
    }
    return [f"--{key}={quoted(value)}" if value else f"--{key}" for key, value in lines.items()]


def quoted(value: str) -> str:
    """Quote a value for a #SBATCH line.

    SLURM reads quotes as a shell does, except that a backslash escapes within single ones too.
    """
    return shlex.quote(value.replace("\\", "\\\\"))


def extra_options(options: dict[str, str]) -> dict[str, str]:
    """Return the user's sbatch options by their long names, less the leading dashes.

    Raises:
        ConfigError: dto sets this one itself, or it is no long option.
    """
    found = {}
    for raw, value in options.items():
        key = raw.lstrip("-")
        plain = key.replace("-", "").isalnum() and key.isascii() and key == key.lower()
        if len(key) < 2 or not plain:
            raise ConfigError(f"--sbatch {raw}: give sbatch's long option, as in constraint=a100")
        owned = next((name for name in sorted(_OWNED) if name.startswith(key)), None)
        if owned:  # sbatch takes abbreviations
            raise ConfigError(f"--sbatch {key}: dto sets {owned} itself; use {_OWNED[owned]}")
        found[key] = value
    return found


def signal_lead(spec: JobSpec) -> int:
    """Seconds before the limit at which SLURM warns the batch shell.

    A second line of defence: the coordinator watches the deadline itself, so this only has to come
    before a save would start. SLURM may send it up to a minute early.
    """
    automatic = min(120.0, max(10.0, (spec.time_seconds or 86400) / 8))
    return min(65535, round((spec.save_budget or automatic) + MARGIN_SECONDS))


def _gpus(spec: JobSpec) -> dict[str, str]:
    if spec.gpus_per_node == 0 or spec.gpu_flag == "none":
        return {}
    if spec.gpu_flag == "gres":
        mine = f"gpu:{spec.gpus_per_node}"
        other = spec.sbatch.get("gres")
        return {"gres": f"{other},{mine}" if other else mine}
    return {"gpus-per-node": str(spec.gpus_per_node)}


def template_folders() -> Sequence[Path]:
    """Where templates lie: inside an installed wheel, or beside the package in a clone."""
    package = Path(__file__).resolve().parents[1]
    return (package / "_data" / "templates", package.parent / "templates")


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(template_folders()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(name)
