"""The places a setting can come from, each read into one layer that remembers where."""

from __future__ import annotations

import difflib
import logging
import os
import pwd
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dto.config.durations import parse_seconds, parse_time_limit
from dto.config.profile import PROFILE_VARIABLE, ClusterProfile, profile_path
from dto.config.spec import SETTINGS, field_of
from dto.config.yaml_text import read_yaml
from dto.errors import ConfigError

log = logging.getLogger(__name__)

PROJECT_FILE = "dto.yaml"
INTERNAL_VARIABLES = frozenset(
    "DTO_" + name
    for name in (
        "RUN_DIR SOCKET ATTEMPT GENERATION DEADLINE NODE COORDINATOR TOKEN RUN SUBMISSION"
    ).split()
)
"""What dto sets inside a job; never a setting."""

_SECONDS = {"save_budget", "heartbeat_timeout", "start_timeout"}
_PATHS = {"run_root", "python"}
_MAPPINGS = {"sbatch", "env"}


@dataclass(frozen=True)
class Layer:
    """Some settings by field name of JobSpec, and where each was written."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    cpus_per_gpu: int | None = None
    """A fact that only a cluster profile has."""


def make_layer(
    settings: Mapping[str, Any], where: str | Callable[[str], str], base: Path | None = None
) -> Layer:
    """Turn raw settings into a layer; `where` names their place, or gives it by setting.

    Relative paths are taken from `base`: the folder of the file that they were written in.
    """
    layer = Layer()
    for key, raw in settings.items():
        name = key.replace("-", "_")
        origin = where if isinstance(where, str) else where(name)
        if name not in SETTINGS:
            raise ConfigError(f"{origin}: unknown setting {key!r}{nearest(name, SETTINGS)}")
        try:
            layer.values[field_of(name)] = _convert(name, raw, base)
        except ValueError as error:
            raise ConfigError(f"{name}: {error} ({origin})") from None
        layer.origins[field_of(name)] = origin
    return layer


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the whole list where nothing is near."""
    choices = list(known)
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    near = near or [choice for choice in choices if name and choice.startswith(name.lower())][:1]
    return f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(choices)}"


def _convert(name: str, raw: Any, base: Path | None) -> Any:
    if raw is None:
        return None
    if name == "time":
        return parse_time_limit(str(raw))
    if name in _SECONDS:
        return parse_seconds(str(raw))
    if name in _MAPPINGS:
        return raw if isinstance(raw, dict) else pairs(shlex.split(str(raw)))
    if name == "setup":
        return list(raw) if isinstance(raw, list | tuple) else str(raw).splitlines()
    if name in _PATHS and isinstance(raw, str):
        return _path(name, raw, base)
    return raw


def _path(name: str, raw: str, base: Path | None) -> str:
    """Make a path absolute without following links: a venv's python is a link on purpose."""
    if not raw:
        raise ValueError("must not be empty")
    if name == "python" and "/" not in raw:
        return raw
    raw = re.sub(r"\$USER\b", lambda _: _user(), raw)  # one profile serves all users
    return os.path.normpath(os.path.join(base or os.getcwd(), os.path.expanduser(raw)))


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def pairs(words: Iterable[str]) -> dict[str, str]:
    """Return {k: v} of `k=v` words; a bare `k` has the empty value."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def profile_layer(env: Mapping[str, str]) -> Layer:
    path = profile_path(env)
    if not path.exists() and not env.get(PROFILE_VARIABLE):
        return Layer()
    raw = read_yaml(path)
    for key in raw:
        if key not in ClusterProfile.model_fields:
            near = nearest(key, ClusterProfile.model_fields)
            raise ConfigError(f"cluster profile {path}: unknown key {key!r}{near}")
    try:
        profile = ClusterProfile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"cluster profile {path}: {first_problem(error)}") from None
    layer = make_layer(profile.settings(), f"cluster profile {path}", path.parent)
    return Layer(layer.values, layer.origins, profile.cpus_per_gpu)


def user_layer(env: Mapping[str, str]) -> Layer:
    home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or "~", ".config")
    path = Path(os.path.expanduser(home)) / "dto" / "config.yaml"
    return _file_layer(path, "user config") if path.is_file() else Layer()


def project_layer(cwd: Path) -> Layer:
    """Read the nearest dto.yaml at or above the working directory."""
    for folder in (cwd, *cwd.parents):
        if (folder / PROJECT_FILE).is_file():
            return _file_layer(folder / PROJECT_FILE, "project")
    return Layer()


def _file_layer(path: Path, kind: str) -> Layer:
    return make_layer(read_yaml(path), f"{kind} {path}", path.parent)


def header_layer(script: Path) -> Layer:
    """Read `# dto: nodes=2 time=4h` lines from the comments that a script begins with."""
    layer = Layer()
    try:
        with open(script, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not line.lstrip().startswith(b"#"):
                    break
                match = re.match(rb"\s*#\s*dto:(.*)", line)
                if match:
                    where = f"script header {script.name} line {number}"
                    words = _split(os.fsdecode(match[1]), where)
                    found = make_layer(pairs(words), where, script.parent)
                    layer.values.update(found.values)
                    layer.origins.update(found.origins)
    except OSError as error:
        raise ConfigError(f"cannot read {script}: {error.strerror}") from None
    return layer


def _split(text: str, where: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    bare = next((word for word in words if "=" not in word), None)
    if bare is not None:
        raise ConfigError(f"{where}: {bare!r} is not `setting=value`")
    return words


def environment_layer(env: Mapping[str, str]) -> Layer:
    """Read DTO_<SETTING>. A name that is nearly a setting is an error, another one a warning."""
    settings: dict[str, str] = {}
    known = {PROFILE_VARIABLE, *INTERNAL_VARIABLES}
    if "DTO_RUN_DIR" not in env:
        known.remove("DTO_NODE")  # outside a job this is DTO_NODES, misspelt
    for variable in sorted(env):
        if not variable.startswith("DTO_"):
            continue
        name = variable.removeprefix("DTO_").lower()
        if name in SETTINGS and env[variable] != "":
            settings[name] = env[variable]
        elif name not in SETTINGS and variable not in known:
            if difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.75):
                near = nearest(name, SETTINGS)
                raise ConfigError(f"environment {variable}: unknown setting {name!r}{near}")
            log.warning("environment %s is not a setting of dto; it is ignored", variable)
    return make_layer(settings, lambda name: f"environment DTO_{name.upper()}")


def first_problem(error: ValidationError) -> str:
    """Return pydantic's first complaint as one line that names the setting and the value."""
    problem = error.errors(include_url=False)[0]
    text = str(problem["msg"]).removeprefix("Value error, ")
    text = text.replace("Input should be", "must be").replace("Input must be", "must be")
    place = ".".join(str(part) for part in problem["loc"])
    value = problem.get("input")
    shown = f", not {value!r}" if isinstance(value, str | int | float) else ""
    return f"{place}: {text}{shown}" if place else text
