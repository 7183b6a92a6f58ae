"""From what was typed to a checked job: finds the script, gathers the layers, resolves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dto.config.layers import (
    Layer,
    environment_layer,
    header_layer,
    make_layer,
    profile_layer,
    project_layer,
    user_layer,
)
from dto.config.machine import this_machine
from dto.config.resolve import Resolved, Target, resolve
from dto.errors import UsageError


@dataclass(frozen=True)
class Typed:
    """One command line: what to run, and the flags before it."""

    what: str
    args: tuple[str, ...] = ()
    is_module: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)


def prepare(
    typed: Typed, scheduler: Literal["local", "slurm"], env: Mapping[str, str], cwd: Path
) -> Resolved:
    """Return the job that a command line means here.

    Raises:
        UsageError: there is no such script, or a setting is wrong.
    """
    if typed.is_module and ("/" in typed.what or not all(typed.what.split("."))):
        raise UsageError(f"-m {typed.what!r} is not a module's name: write package.module")
    script = None if typed.is_module else find_script(typed.what, cwd)
    source = module_source(typed.what, cwd) if typed.is_module else script
    command = {"args": list(typed.args), "cwd": os.fspath(cwd)}
    if script is None:
        command["module"] = typed.what
    else:
        command["script"] = os.fspath(script)
    header = header_layer(source) if source and source.is_file() else Layer()
    layers = [profile_layer(env), user_layer(env), project_layer(cwd), header]
    strong = [environment_layer(env), flag_layer(typed.flags)]
    inside = _allocation_nodes(env) if scheduler == "local" else None
    return resolve(command, layers, Target(scheduler, this_machine(env), inside), strong)


def flag_layer(flags: Mapping[str, Any]) -> Layer:
    """Make a layer of what was typed; `--set NAME=VALUE` counts as typed too."""
    given = {name: value for name, value in flags.items() if value not in (None, (), {})}
    return make_layer(given, lambda name: f"flag --{name.replace('_', '-')}")


def find_script(text: str, cwd: Path) -> Path:
    """Return the absolute path of a script that can be read.

    Links are kept: a script may look for its neighbours beside the link.
    """
    path = Path(os.path.normpath(cwd / text))
    if not text or not os.path.lexists(path):
        raise UsageError(f"script {text!r} does not exist (looked in {cwd})")
    if path.is_dir():
        if (path / "__main__.py").is_file():
            return path
        raise UsageError(f"script {text!r} is a directory; name a file in it")
    if not path.is_file():
        raise UsageError(f"script {text!r} is not a regular file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"script {text!r} cannot be read: {error.strerror}") from None
    return path


def module_source(module: str, cwd: Path) -> Path | None:
    """Return the file of `-m MODULE` below the working directory, for its header; never imports."""
    base = cwd.joinpath(*module.split("."))
    candidates: Sequence[Path] = (base.with_name(base.name + ".py"), base / "__main__.py")
    return next((path for path in candidates if path.is_file()), None)


def find_run_root(flag: str | None, env: Mapping[str, str], cwd: Path) -> Path:
    """Return where runs lie, for commands that have no script."""
    layers = [
        profile_layer(env),
        user_layer(env),
        project_layer(cwd),
        environment_layer(env),
        flag_layer({"run_root": flag}),
    ]
    roots = [layer.values["run_root"] for layer in layers if layer.values.get("run_root")]
    return Path(roots[-1]) if roots else cwd / "runs"


def _allocation_nodes(env: Mapping[str, str]) -> int | None:
    """Return the size of the SLURM allocation around this shell, None outside of one."""
    nodes = env.get("SLURM_JOB_NUM_NODES") or env.get("SLURM_NNODES") or ""
    return int(nodes) if env.get("SLURM_JOB_ID") and nodes.isdigit() else None
