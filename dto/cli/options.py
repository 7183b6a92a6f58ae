"""Options that several commands share, and the grammar of `[OPTIONS] SCRIPT [ARGS...]`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from dto.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

# -m is a flag and MODULE the first word after the options, so that, as with python, everything
# behind it is the module's: `dto run -m package.train --epochs 3`.
SCRIPT_GRAMMAR = {"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]}

_SHAPE = [
    click.option("-n", "--ranks-per-node", metavar="N", help="Ranks (processes) on each node."),
    click.option("-N", "--nodes", metavar="N", help="Nodes."),
    click.option("-g", "--gpus-per-node", metavar="N", help="GPUs on each node."),
    click.option("-c", "--cpus-per-rank", metavar="N", help="CPUs for each rank."),
    click.option("-t", "--time", metavar="T", help="Time limit: 4h, 90m, 1-12:00:00."),
    click.option("--backend", metavar="B", help="auto, nccl, gloo or horovod."),
    click.option("--retries", metavar="N", help="Restarts after a rank failed."),
    click.option("--save-budget", metavar="T", help="Time kept for a save before the limit."),
    click.option("--env", multiple=True, metavar="K=V", help="A variable for the ranks; repeat."),
    click.option("--set", "settings", multiple=True, metavar="K=V", help="Any setting; repeat."),
]
_NEW_RUN = [
    click.option("-J", "--name", metavar="NAME", help="Job name; default: the script's."),
    click.option("--python", metavar="PATH", help="The ranks' interpreter; default: dto's own."),
    click.option("--seed", metavar="N", help="Recorded, and passed on to the runtime."),
    click.option("--run-root", metavar="DIR", help="Where runs lie; default: ./runs."),
]
_CLUSTER = [
    click.option("-p", "--partition", metavar="P", help="SLURM partition."),
    click.option("-A", "--account", metavar="A", help="SLURM account."),
    click.option("-q", "--qos", metavar="Q", help="SLURM quality of service."),
    click.option("--mem", metavar="M", help="Memory of each node: 64G; 0 is all of it."),
    click.option("--requeue/--no-requeue", default=None, help="May SLURM start it again?"),
    click.option("--sbatch", multiple=True, metavar="K=V", help="Any sbatch option; repeat."),
]
_SCRIPT = [
    click.option("-m", "is_module", is_flag=True, help="SCRIPT is a MODULE, as in python -m."),
    click.argument("script", type=click.UNPROCESSED),
    click.argument("args", nargs=-1, type=click.UNPROCESSED),
]


def _apply(options: list[Callable[[Any], Any]]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


shape_options = _apply(_SHAPE)
new_run_options = _apply(_NEW_RUN)
cluster_options = _apply(_CLUSTER)
script_arguments = _apply(_SCRIPT)
run_root_option = click.option("--run-root", metavar="DIR", help="Where runs lie.")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
run_argument = click.argument("run", default="latest", type=click.UNPROCESSED)


def flags_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn click's values into settings: K=V options to mappings, `--set` to what it names."""
    flags = {name: value for name, value in options.items() if name != "settings"}
    for name in ("env", "sbatch"):
        if name in flags:
            flags[name] = _pairs(name, flags[name], needs_value=name == "env")
    named = _pairs("set", options.get("settings", ()), needs_value=True)
    for name in named:
        if flags.get(name.replace("-", "_")) not in (None, {}):
            raise UsageError(f"--set {name} and its own flag are both given: leave one out")
    return {**flags, **named}


def _pairs(option: str, words: tuple[str, ...], needs_value: bool) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or (needs_value and not equals):
            raise UsageError(f"--{option} {word!r}: write it as NAME=VALUE")
        found[key] = value
    return found


def working_directory() -> Path:
    """Return the current directory by the name that the user knows it by."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise UsageError("the current directory was deleted: cd to one that exists") from None
    named = os.environ.get("PWD", "")
    if os.path.isabs(named) and os.path.exists(named) and os.path.samefile(named, here):
        return Path(named)
    return Path(here)
