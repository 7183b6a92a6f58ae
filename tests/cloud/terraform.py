"""Run the real terraform in a folder of a test's own, offline where this machine has a mirror."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers import REPOSITORY
from tests.layers import provider_mirror

PLUGINS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dto"
_NO_INPUT = {"apply", "destroy", "import", "init", "plan", "refresh"}
_NO_COLOUR_FLAG = {"fmt", "login", "logout", "providers", "state", "version", "workspace"}
_LEFT_BEHIND = shutil.ignore_patterns(".terraform", "*.tfstate", "*.tfstate.*", "*.tfvars", "*.log")


@functools.cache
def _offline_config() -> str | None:
    """The CLI config that installs providers from this machine, where it has a mirror of them."""
    script = REPOSITORY.parent / "shared" / "bin" / "terraform-offline"
    if os.access(script, os.X_OK):
        done = subprocess.run([script], text=True, capture_output=True, timeout=60)
        if done.returncode == 0:
            return done.stdout.strip()
    if (mirror := provider_mirror()) is None:
        return None
    path = PLUGINS / "terraform-mirror.tfrc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n'
    )
    return str(path)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would steer terraform elsewhere, and `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TF_", "AWS_", "NB_", "NEBIUS_"))
    }
    kept |= {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    given = os.environ.get("TF_CLI_CONFIG_FILE", "")
    if Path(given).is_file():
        kept["TF_CLI_CONFIG_FILE"] = given
    else:
        if config := _offline_config():
            kept["TF_CLI_CONFIG_FILE"] = config
        else:
            cache = PLUGINS / "terraform-plugins"
            cache.mkdir(parents=True, exist_ok=True)
            kept["TF_PLUGIN_CACHE_DIR"] = str(cache)
    return {**kept, **(more or {})}


class Terraform:
    """Terraform in one folder; `run` leaves the exit code to the caller, the others insist on 0."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = dict(environment or {})

    def run(self, *args: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        flags = [] if args[0] in _NO_COLOUR_FLAG else ["-no-color"]
        flags += ["-input=false"] if args[0] in _NO_INPUT else []
        command = ["terraform", f"-chdir={self.folder}", args[0], *flags, *args[1:]]
        return subprocess.run(
            command, env=environment(self.environment), stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=timeout,
        )  # fmt: skip

    def must(self, *args: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        done = self.run(*args, timeout=timeout)
        assert done.returncode == 0, f"terraform {' '.join(args)}:\n{done.stdout}\n{done.stderr}"
        return done

    def init(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.must("init", *args)

    def validate(self) -> subprocess.CompletedProcess[str]:
        return self.must("validate")

    def apply(self, *variables: str) -> subprocess.CompletedProcess[str]:
        return self.must("apply", "-auto-approve", *variables)

    def plan(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.must("plan", *args)

    def destroy(self, *variables: str) -> subprocess.CompletedProcess[str]:
        return self.must("destroy", "-auto-approve", *variables)

    def output(self) -> dict[str, Any]:
        """The values of all outputs by name."""
        outputs = json.loads(self.must("output", "-json").stdout)
        return {name: output["value"] for name, output in outputs.items()}


def copy_root(name: str, to: Path) -> Path:
    """Copy terraform/ whole, so that no state lands in the checkout, and return the root in it."""
    shutil.copytree(REPOSITORY / "terraform", to, ignore=_LEFT_BEHIND, dirs_exist_ok=True)
    return to / name
