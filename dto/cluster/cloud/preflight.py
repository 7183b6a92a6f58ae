"""What must hold before anything is paid for; each thing that does not is one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dto.cluster.cloud import preflight_aws, preflight_nebius
from dto.cluster.cloud.terraform import Terraform
from dto.cluster.cloud.variables import provider_in, read_variables
from dto.cluster.cloud.verdict import Verdict, judge
from dto.cluster.session import Terminal

_VARIABLES = {"aws": preflight_aws.VARIABLES, "nebius": preflight_nebius.VARIABLES}


def may_ask(terraform: Terraform, terminal: Terminal, region: str | None = None) -> str:
    """See that Terraform is there and its cloud lets us in; return which cloud it is."""
    terraform.check()
    provider = provider_in(terraform.folder)
    if provider in _VARIABLES:
        judge(credentials(provider, region), terminal)
    return provider


def preflight(
    terraform: Terraform, terminal: Terminal, region: str | None = None
) -> dict[str, Any]:
    """Look before a plan is made, as far as the variables are known by then; return those.

    Raises:
        PreflightError: something is in the way; nothing was made.
    """
    provider = may_ask(terraform, terminal, region)
    if provider not in _VARIABLES:
        return {}
    terraform.ready()
    known = read_variables(terraform, _VARIABLES[provider])
    judge(check(provider, known), terminal)
    return known


def preflight_again(
    provider: str, variables: Mapping[str, Any], known: Mapping[str, Any], terminal: Terminal
) -> None:
    """Look once more where the plan's questions brought out what was not known before."""
    names = _VARIABLES.get(provider, ())
    values = {name: variables.get(name) for name in names if variables.get(name) is not None}
    if values != dict(known):
        judge(check(provider, values), terminal)


def credentials(provider: str, region: str | None) -> Verdict:
    if provider == "nebius":
        return preflight_nebius.credentials(os.environ)
    names = ("AWS_REGION", "AWS_DEFAULT_REGION")
    return preflight_aws.credentials(region or next(filter(None, map(os.environ.get, names)), None))


def check(provider: str, variables: Mapping[str, Any]) -> Verdict:
    if provider == "nebius":
        return preflight_nebius.check(variables)
    return preflight_aws.check(variables) if provider == "aws" else Verdict()
