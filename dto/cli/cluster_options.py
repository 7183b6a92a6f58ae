"""The options of `dto cluster`: who the hosts are, how they are reached, what they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

_AMOUNT = click.IntRange(0, 65536)
_HOSTS = [
    click.option("--master-ip", metavar="IP", help="The head's address."),
    click.option("--worker-ips", metavar="'IP IP'", help="The nodes' (commas or spaces)."),
    click.option(
        "--total-gpus", metavar="N", type=_AMOUNT, help="GPUs of all nodes together, in even parts."
    ),
    click.option("--inventory", metavar="FILE", help="A record (cluster.yaml) instead of flags."),
    click.option("--from-terraform", metavar="DIR", help="What Terraform applied in DIR instead."),
    click.option("--local", is_flag=True, help="This machine alone: head and only node."),
    click.option("--join", metavar="HOST", help="One more node: IP, or NAME=IP."),
    click.option(
        "--role", type=click.Choice(["worker"]), help="Join this machine itself; needs --head."
    ),
    click.option("--head", metavar="HOST", help="The head of the cluster that --role joins."),
]
_REACH = [
    click.option("--private-key", metavar="FILE", help="Private ssh key; else agent and ~/.ssh."),
    click.option("--user", metavar="NAME", help="Who to log in as; needs sudo unless root."),
    click.option("--port", metavar="N", type=click.IntRange(1, 65535), help="The hosts' ssh port."),
    click.option("--bastion", metavar="HOST", help="Go through [USER@]HOST[:PORT]."),
    click.option(
        "--accept-new-host-keys", is_flag=True, help="Trust hosts that are met the first time."
    ),
    click.option(
        "--use-secrets-manager", is_flag=True, help="The key is in AWS Secrets Manager."
    ),
    click.option("--secret-name", metavar="NAME", help="Its name there."),
    click.option("--region", metavar="R", help="Cloud region, of the secret and of the record."),
]
_BECOME = [
    click.option(
        "--shared", metavar="KIND[:SOURCE]", help="nfs, efs, fsx-lustre, virtiofs or existing."
    ),
    click.option("--shared-path", metavar="DIR", help="Where it is on every host; /shared."),
    click.option("--wheels", metavar="DIR", help="Python packages from here, not from an index."),
    click.option(
        "--torch", type=click.Choice(["auto", "none"]), help="none: leave PyTorch to the users."
    ),
    click.option("--no-horovod", is_flag=True, help="Don't build Horovod."),
]  # fmt: skip
_RUN = [
    click.option("--check", is_flag=True, help="Only say what would change."),
    click.option("--no-verify", is_flag=True, help="Leave out the all-reduce at the end."),
    click.option("-y", "--yes", is_flag=True, help="Ask nothing."),
    click.option("-v", "--verbose", is_flag=True, help="More in the log."),
]


def _apply(options: list[Callable[[Any], Any]]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


cluster_name_option = click.option(
    "--cluster-name", metavar="NAME", help="Which cluster; default: the only one."
)
host_options = _apply(_HOSTS)
reach_options = _apply(_REACH)
become_options = _apply(_BECOME)
run_options = _apply(_RUN)
gpus_option = click.option(
    "--gpus", "total_gpus", metavar="N", type=_AMOUNT, help="GPUs; default: those found there."
)
check_option, _, yes_option, verbose_option = _RUN
