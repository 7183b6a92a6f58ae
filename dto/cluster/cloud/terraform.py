"""The real terraform in one folder: what it says goes to the person, what we read is JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dto.cluster.cloud.frames import gist, lock_words
from dto.cluster.cloud.live import Ended, run_live
from dto.errors import ClusterError, DtoError, PreflightError
from dto.runs.files import write_atomic

LEAST = (1, 11)
_READ_SECONDS = 180.0


class Interrupted(DtoError):
    """Somebody pressed Ctrl-C; terraform has put down what it had done."""

    exit_code = 130


@dataclass(frozen=True)
class Terraform:
    """One folder; `flags` are the -var and -var-file that were typed."""

    folder: Path
    flags: tuple[str, ...] = ()
    is_for_program: bool = False
    """stdout belongs to whoever reads our JSON, so terraform speaks on stderr."""

    @property
    def private(self) -> Path:
        """A folder of ours in .terraform, which nobody commits."""
        data = Path(os.environ.get("TF_DATA_DIR") or ".terraform")
        folder = (self.folder / data / "dto").absolute()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    @property
    def plan_file(self) -> Path:
        return self.private / "tfplan"

    def environment(self) -> dict[str, str]:
        """What was answered earlier counts last: before it come files and flags of today."""
        kept = {f"TF_VAR_{name}": _text(value) for name, value in self.remembered().items()}
        return {"TF_IN_AUTOMATION": "1", **kept, **os.environ}

    def remembered(self) -> dict[str, Any]:
        path = self.private / "variables.json"
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remember(self, variables: dict[str, Any]) -> None:
        """Keep the answers of a plan for what comes after it: nobody types them again."""
        write_atomic(self.private / "variables.json", json.dumps(variables))

    def typed_names(self) -> set[str]:
        """The variables that were typed, one by one."""
        words = (flag.removeprefix("-var=") for flag in self.flags if flag.startswith("-var="))
        return {word.partition("=")[0] for word in words}

    def check(self) -> None:
        """Refuse to work without a terraform that is new enough."""
        try:
            done = self._read("version", "-json")
            version = str(json.loads(done.stdout)["terraform_version"])
        except (ValueError, KeyError):
            raise PreflightError("`terraform version` gives no answer: reinstall it") from None
        least = ".".join(map(str, LEAST))
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < LEAST:
            raise PreflightError(f"terraform is {version}: dto needs {least} or newer")

    def ready(self, quiet: bool = False) -> None:
        """Fetch providers and modules where that was never done."""
        data = self.private.parent
        if not (data / "providers").is_dir() and not (data / "modules").is_dir():
            self._init(quiet)

    def plan(self, *words: str, quiet: bool = False) -> dict[str, Any]:
        """Make a plan and return it; modules and providers are fetched where they are missing."""
        self.ready(quiet)
        command = ("plan", *self._input(quiet), f"-out={self.plan_file}", *self.flags, *words)
        ended = self._run(*command, quiet=quiet)
        if ended.code not in (0, 2) and "terraform init" in ended.said:
            self._init(quiet)
            ended = self._run(*command, quiet=quiet)
        if ended.code not in (0, 2):
            raise self._failure("plan", ended)
        found = self.show(str(self.plan_file))
        if quiet:  # it was only to be read, and holds secrets
            self.plan_file.unlink()
        return found

    def apply_plan(self) -> None:
        """Do what the plan says; whatever has come of it is in the state, however it ends."""
        try:
            self._live("apply", "-input=false", str(self.plan_file))
        finally:
            self.plan_file.unlink(missing_ok=True)

    def destroy(self) -> None:
        self._live("destroy", "-auto-approve", *self._input(), *self.flags)

    def forget(self, addresses: list[str]) -> None:
        """Take resources out of the state; in the cloud they stay."""
        done = self._read("state", "rm", *addresses)
        if done.returncode:
            raise self._failure("state rm", Ended(done.returncode, done.stderr, False))

    def show(self, *plan: str) -> dict[str, Any]:
        """Return the state, or a plan file; {} where nothing was applied."""
        done = self._read("show", "-json", *plan)
        if done.returncode:
            raise self._failure("show", Ended(done.returncode, done.stderr, False))
        try:
            found = json.loads(done.stdout)
        except ValueError:
            raise DtoError(f"`terraform show` in {self.folder} printed no JSON") from None
        return found if isinstance(found, dict) else {}

    def evaluate(self, expression: str) -> str:
        """Have `terraform console` work an expression out; nothing where it cannot."""
        done = self._read("console", *self.flags, input=expression + "\n")
        return done.stdout if done.returncode == 0 else ""

    def _init(self, quiet: bool) -> None:
        ended = self._run("init", *self._input(quiet), quiet=quiet)
        if ended.code:
            raise self._failure("init", ended)

    def _input(self, quiet: bool = False) -> tuple[str, ...]:
        return () if sys.stdin.isatty() and not quiet else ("-input=false",)

    def _live(self, *words: str) -> None:
        ended = self._run(*words)
        if ended.code:
            raise self._failure(words[0], ended)
        if ended.was_interrupted:
            raise Interrupted(f"terraform {words[0]} had ended when it was interrupted")

    def _run(self, *words: str, quiet: bool = False) -> Ended:
        stdout = sys.stderr if self.is_for_program else None
        try:
            command = self._argv((words[0], *self._colour(), *words[1:]))
            return run_live(command, self.environment(), quiet=quiet, stdout=stdout)
        except FileNotFoundError:
            raise missing() from None

    def _argv(self, words: tuple[str, ...]) -> list[str]:
        return ["terraform", f"-chdir={self.folder}", *words]

    def _colour(self) -> tuple[str, ...]:
        return () if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("-no-color",)

    def _read(self, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                self._argv(words), env=self.environment(), input=input, encoding="utf-8",
                errors="replace", capture_output=True, timeout=_READ_SECONDS,
            )  # fmt: skip
        except FileNotFoundError:
            raise missing() from None
        except subprocess.TimeoutExpired:
            text = f"`terraform {words[0]}` in {self.folder} gave no answer"
            raise ClusterError(f"{text} in {_READ_SECONDS:g} s; is its state reachable?") from None

    def _failure(self, what: str, ended: Ended) -> DtoError:
        if ended.was_interrupted:
            return Interrupted(f"terraform {what} was interrupted; {_GO_ON}")
        if lock := lock_words(ended.said, self.folder):
            return DtoError(lock)
        return DtoError(f"terraform {what} in {self.folder}: {gist(ended.said)}")


_GO_ON = (
    "what it had made is in its state: `dto cluster up` goes on, `dto cluster down` takes it away"
)


def missing() -> PreflightError:
    least = ".".join(map(str, LEAST))
    return PreflightError(f"terraform is not installed, or not on PATH: dto needs {least} or newer")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
