"""`dto cluster plan|up|down|cost|drift`: clusters in a cloud, through Terraform."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dto.cli.cluster_options import cluster_name_option, reach_options, verbose_option, yes_option
from dto.cli.options import json_option
from dto.cli.output import echo_json, echo_text

if TYPE_CHECKING:
    from dto.cluster.cloud.applying import Typed
    from dto.cluster.cloud.looking import Answer

Function = TypeVar("Function", bound=Callable[..., Any])

_VARIABLES = [
    click.argument("root", metavar="[PROVIDER|DIR]", required=False),
    click.option("--var", multiple=True, metavar="NAME=VALUE", help="A Terraform variable."),
    click.option("--var-file", multiple=True, metavar="FILE", help="A file of such variables."),
]
wait_option = click.option(
    "--wait", metavar="SECONDS", type=click.FloatRange(0, 86400), default=900.0,
    show_default=True, help="How long to wait for nodes of the cloud and their host keys.",
)  # fmt: skip


def _root_options(function: Function) -> Function:
    for option in reversed(_VARIABLES):
        function = option(function)
    return function


def _typed(options: dict[str, Any], as_json: bool = False) -> Typed:
    from dto.cluster.cloud.applying import Typed

    return Typed(options["root"], options["var"], options["var_file"], as_json)


@click.command("plan")
@_root_options
@json_option
def plan_command(as_json: bool, **options: Any) -> None:
    """Check, plan, and say what it would cost; nothing is made.

    PROVIDER is aws or nebius, DIR a folder of Terraform's; default: the current folder. Exit
    codes: 1 Terraform failed, 5 something would keep an apply from working.
    """
    from dto.cli.cluster import Person
    from dto.cluster.cloud.applying import plan
    from dto.cluster.cloud.estimate import told

    person = Person()
    planned, priced = plan(_typed(options, as_json).terraform(person), person)
    if as_json:
        echo_json({"changes": planned.counted(), "estimate": priced.to_json()})
        return
    echo_text("\n" + "\n".join(told(priced)) + "\n")


@click.command("up")
@_root_options
@click.option("--no-setup", is_flag=True, help="Stop when the machines are there.")
@wait_option
@reach_options
@click.option("--no-verify", is_flag=True, help="Leave out the all-reduce at the end.")
@yes_option
@verbose_option
def up_command(no_setup: bool, wait: float, yes: bool, **options: Any) -> None:
    """Make a cluster in a cloud: plan, price, ask, apply, and set it up.

    What was interrupted goes on with the next `up`; `down` takes away what there is.
    """
    from dto.cli.cluster import Person, key_of, options_of, reach_of
    from dto.cluster.asked import Asked
    from dto.cluster.cloud.applying import up

    person = Person(asks=not yes)
    terraform = _typed(options).terraform(person)
    asked = Asked(
        from_terraform=str(terraform.folder),
        reach=reach_of(options),
        options=options_of(options),
        wait_seconds=wait,
    )
    with key_of(options):
        up(terraform, person, os.environ, None if no_setup else asked, yes)


@click.command("down")
@_root_options
@cluster_name_option
@click.option("--keep-data", is_flag=True, help="Leave the bucket and the filesystem there.")
@click.option("--delete-data", is_flag=True, help="Delete a bucket also where it is not empty.")
@click.option("--sweep", is_flag=True, help="Delete what is left with the cluster's tag, too.")
@click.option(
    "--stop-seconds",
    metavar="N",
    type=click.FloatRange(0, 86400),
    default=600.0,
    show_default=True,
    help="How long jobs may take to save.",
)
@reach_options
@yes_option
def down_command(cluster_name: str | None, yes: bool, **options: Any) -> int:
    """Let jobs save, destroy the cluster, and look for anything left: exit code 1 then.

    Without a state: --cluster-name and --region (Nebius: the project's id) search by tag.
    """
    from dto.cli.cluster import Person, key_of, reach_of
    from dto.cluster.cloud.down import Leaving, down

    person = Person(asks=not yes)
    leaving = Leaving(
        name=cluster_name,
        yes=yes,
        reach=reach_of(options),
        **{key: options[key] for key in ("region", "keep_data", "delete_data", "sweep",
                                         "stop_seconds")},
    )  # fmt: skip
    with key_of(options):
        is_clean = down(_root_if_any(options, cluster_name), leaving, person, os.environ)
    return 0 if is_clean else 1


def _root_if_any(options: dict[str, Any], name: str | None, as_json: bool = False) -> Any:
    """With a cluster's name, a folder is not needed."""
    from pathlib import Path

    from dto.cli.cluster import Person

    if options["root"] is None and name and not any(Path.cwd().glob("*.tf")):
        return None
    return _typed(options, as_json).terraform(Person())


@click.command("cost")
@_root_options
@cluster_name_option
@reach_options
@json_option
def cost_command(cluster_name: str | None, as_json: bool, **options: Any) -> None:
    """Show what an hour will cost before an apply, and what was spent after it."""
    from dto.cli.cluster import Person, key_of, reach_of
    from dto.cluster.cloud.looking import costs

    terraform = _root_if_any(options, cluster_name, as_json)
    with key_of(options):
        answer = costs(terraform, cluster_name, reach_of(options), Person(), os.environ)
    _show(answer, as_json)


@click.command("drift")
@_root_options
@reach_options
@json_option
def drift_command(as_json: bool, **options: Any) -> int:
    """Say where Terraform, the cloud, the record and SLURM differ: exit code 1 then."""
    from dto.cli.cluster import Person, key_of, reach_of
    from dto.cluster.cloud.looking import drifted

    person = Person()
    terraform = _typed(options, as_json).terraform(person)
    with key_of(options):
        answer = drifted(terraform, reach_of(options), person, os.environ)
    _show(answer, as_json)
    return 0 if answer.is_fine else 1


@click.command("enrol", hidden=True)
def enrol_command() -> None:
    """Bring in what this head's cloud starts, for ever; what the service dto-enrol runs."""
    from dto.cli.cluster import Person
    from dto.cluster.cloud.enrol import serve

    serve(Person(asks=False), os.environ)


def _show(answer: Answer, as_json: bool) -> None:
    if as_json:
        echo_json(answer.json)
    else:
        echo_text("\n".join(answer.lines) + "\n")


CLOUD_COMMANDS = (plan_command, up_command, down_command, cost_command, drift_command,
                  enrol_command)  # fmt: skip
