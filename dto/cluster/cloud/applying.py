"""`plan` and `up`: checked, planned, priced, asked, applied, and made a cluster of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dto.cluster.asked import Asked
from dto.cluster.cloud.estimate import Estimate, estimate, told
from dto.cluster.cloud.planned import Planned, read_plan
from dto.cluster.cloud.preflight import preflight, preflight_again
from dto.cluster.cloud.root import find_root
from dto.cluster.cloud.terraform import Terraform
from dto.cluster.cloud.text import counted
from dto.cluster.session import Terminal
from dto.cluster.setup import setup
from dto.errors import DtoError, UsageError


@dataclass(frozen=True)
class Typed:
    """What every command on a cloud takes: the root and its variables."""

    root: str | None = None
    variables: tuple[str, ...] = ()
    variable_files: tuple[str, ...] = ()
    is_for_program: bool = False

    def flags(self) -> tuple[str, ...]:
        """Return them as Terraform takes them; a later one wins over an earlier one."""
        for text in self.variables:
            if not text.partition("=")[1]:
                raise UsageError(f"--var {text}: write NAME=VALUE")
        files = [Path(text).expanduser() for text in self.variable_files]
        for file in files:
            if not file.is_file():
                raise UsageError(f"--var-file {file}: there is no such file")
        given = [f"-var-file={file.absolute()}" for file in files]
        return (*given, *(f"-var={text}" for text in self.variables))

    def terraform(self, terminal: Terminal) -> Terraform:
        folder = find_root(self.root, Path.cwd(), terminal.say)
        return Terraform(folder, self.flags(), self.is_for_program)


def plan(terraform: Terraform, terminal: Terminal) -> tuple[Planned, Estimate]:
    """Make a plan that could be paid for, and work out what it would cost."""
    known = preflight(terraform, terminal)
    planned = read_plan(terraform.plan())
    preflight_again(planned.provider, planned.variables, known, terminal)
    kept = to_remember(planned, terraform)
    if again := sorted(kept.keys() - planned.required - terraform.typed_names()):
        terminal.say(f"as it was said before: {', '.join(again)} (--var says it anew)")
    terraform.remember(kept)
    return planned, estimate(planned)


def to_remember(planned: Planned, terraform: Terraform) -> dict[str, Any]:
    """Return what would have to be said again, now or with the last `up`.

    What a file in the folder says (terraform.tfvars) is not kept: the file is still there.
    """
    if any(flag.startswith("-var-file=") for flag in terraform.flags):
        return dict(planned.answers)
    said = planned.required | terraform.typed_names() | terraform.remembered().keys()
    return {name: value for name, value in planned.answers.items() if name in said}


def up(
    terraform: Terraform,
    terminal: Terminal,
    env: Mapping[str, str],
    asked: Asked | None,
    yes: bool = False,
) -> None:
    """Apply, and set the cluster up as `asked` says; None leaves it at the machines."""
    planned, priced = plan(terraform, terminal)
    terminal.say("\n" + "\n".join(told(priced)))
    if planned.changes and not yes:
        _confirm(planned, terminal)
    if not planned.is_empty:
        terraform.apply_plan()
    if asked is None:
        terminal.say(f"next: dto cluster setup --from-terraform {terraform.folder}")
        return
    setup(asked, terminal, env)


def _confirm(planned: Planned, terminal: Terminal) -> None:
    parts = [f"{verb} {counted(count, 'resource')}" for verb, count in planned.counted().items()]
    answer = terminal.confirm(f"{', '.join(parts)}?")
    if answer is None:
        raise UsageError("nobody is here to agree to this plan: say --yes")
    if not answer:
        raise DtoError("nothing was changed")
