"""`dto cluster`: make clusters, change them, look after them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import click

from dto.cli.cloud import CLOUD_COMMANDS, wait_option
from dto.cli.cluster_options import (
    become_options,
    check_option,
    cluster_name_option,
    gpus_option,
    host_options,
    reach_options,
    run_options,
    verbose_option,
    yes_option,
)
from dto.cli.options import json_option
from dto.cli.output import echo_json, echo_note, echo_table, echo_text
from dto.errors import UsageError

if TYPE_CHECKING:
    from dto.cluster.provision import Options
    from dto.cluster.session import Reach

_CONTEXT = {"help_option_names": ["-h", "--help"]}


class Person:
    """The terminal, as dto.cluster talks to it."""

    def __init__(self, asks: bool = True) -> None:
        self.out: TextIO = sys.stdout
        self._asks = asks

    def say(self, text: str) -> None:
        echo_text(f"{text}\n")

    def warn(self, text: str) -> None:
        echo_note(f"warning: {text}")

    def confirm(self, question: str) -> bool | None:
        if not (self._asks and sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        return click.confirm(question, err=True)


def reach_of(options: dict[str, Any]) -> Reach:
    from dto.cluster.session import Reach

    return Reach(
        private_key=options["private_key"],
        user=options["user"],
        port=options["port"],
        bastion=options["bastion"],
        accept_new_host_keys=options["accept_new_host_keys"],
    )


def options_of(options: dict[str, Any]) -> Options:
    from dto.cluster.provision import Options

    return Options(
        check=bool(options.get("check")),
        verify=not options.get("no_verify"),
        verbose=bool(options.get("verbose")),
    )


@click.group("cluster", context_settings=_CONTEXT)
def cluster_command() -> None:
    """Make SLURM clusters of bare hosts or in a cloud, change them, look after them."""


for _command in CLOUD_COMMANDS:
    cluster_command.add_command(_command)


@cluster_command.command("setup")
@cluster_name_option
@host_options
@wait_option
@reach_options
@become_options
@run_options
def setup_command(cluster_name: str | None, **options: Any) -> None:
    """Make a cluster of bare hosts, or bring one up to date; a second run changes nothing.

    The hosts need sshd, sudo without a password (or root), and Debian 12, 13 or Ubuntu 22.04,
    24.04. Exit codes: 1 a step failed, 2 usage, 3 the head or some nodes do not answer, 5 the
    hosts cannot become a cluster and nothing was changed.
    """
    with key_of(options):
        if options["role"] or options["head"]:
            _join_this_machine(cluster_name, options)
        elif options["join"]:
            _refuse_beside("--join", options, ("master_ip", "worker_ips", *_SOURCES))
            _join(cluster_name, options["join"], options)
        else:
            _setup(cluster_name, options)


_SOURCES = ("inventory", "from_terraform", "local")
_BECOME = ("shared", "shared_path", "wheels", "torch", "no_horovod")


def _setup(cluster_name: str | None, options: dict[str, Any]) -> None:
    from dto.cluster.asked import Asked
    from dto.cluster.setup import setup

    asked = Asked(
        cluster_name=cluster_name,
        reach=reach_of(options),
        options=options_of(options),
        wait_seconds=options["wait"],
        **{name: options[name] for name in ("master_ip", "worker_ips", "total_gpus", "region")},
        **{name: options[name] for name in (*_SOURCES, *_BECOME)},
    )
    setup(asked, Person(asks=not options["yes"]), os.environ)


def _join(cluster_name: str | None, host: str, options: dict[str, Any]) -> None:
    from dto.cluster.members import join

    person = Person(asks=not options["yes"])
    gpus = options.get("total_gpus")
    reach, run = reach_of(options), options_of(options)
    join(cluster_name, host, reach, run, person, os.environ, gpus)


def _join_this_machine(cluster_name: str | None, options: dict[str, Any]) -> None:
    from dto.cluster.members import join_this_machine

    if not (options["role"] and options["head"]):
        raise UsageError("--role worker and --head HOST go together: this machine joins that head")
    others = ("join", "master_ip", "worker_ips", "total_gpus", *_SOURCES, *_BECOME)
    _refuse_beside("--role", options, others)
    person = Person(asks=not options["yes"])
    reach, run = reach_of(options), options_of(options)
    join_this_machine(options["head"], reach, run, person, os.environ)


def _refuse_beside(flag: str, options: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if options[name]:
            raise UsageError(f"{flag} and --{name.replace('_', '-')} do not go together")


@contextlib.contextmanager
def key_of(options: dict[str, Any]) -> Iterator[None]:
    """Have the ssh key at hand, wherever it is kept."""
    if not options["use_secrets_manager"]:
        if options["secret_name"]:
            raise UsageError("--secret-name needs --use-secrets-manager")
        yield
        return
    if not options["secret_name"]:
        raise UsageError("--use-secrets-manager needs --secret-name: what is the key called there?")
    if options["private_key"]:
        raise UsageError("--private-key and --use-secrets-manager are two keys: leave one out")
    from dto.cluster.secrets import key_from_secret

    with key_from_secret(options["secret_name"], options["region"]):
        yield


@cluster_command.command("join")
@click.argument("host")
@cluster_name_option
@reach_options
@gpus_option
@check_option
@verbose_option
def join_command(host: str, cluster_name: str | None, **options: Any) -> None:
    """Add HOST (IP, or NAME=IP) to a living cluster; nothing that runs there is touched."""
    with key_of(options):
        _join(cluster_name, host, {**options, "yes": False})


@cluster_command.command("remove")
@click.argument("node")
@cluster_name_option
@reach_options
@yes_option
@verbose_option
def remove_command(node: str, cluster_name: str | None, yes: bool, **options: Any) -> None:
    """Take NODE out: its jobs save, and go on elsewhere."""
    from dto.cluster.members import remove

    with key_of(options):
        reach, run = reach_of(options), options_of(options)
        remove(cluster_name, node, reach, run, Person(), os.environ, yes)


@cluster_command.command("verify")
@cluster_name_option
@reach_options
@verbose_option
def verify_command(cluster_name: str | None, **options: Any) -> None:
    """Measure every node, and all-reduces between them; one that fails stays drained."""
    from dto.cluster.upkeep import verify

    with key_of(options):
        verify(cluster_name, reach_of(options), options_of(options), Person(), os.environ)


@cluster_command.command("upgrade")
@cluster_name_option
@reach_options
@check_option
@verbose_option
def upgrade_command(cluster_name: str | None, **options: Any) -> None:
    """Bring SLURM's and munge's packages up to date, node by node: its jobs save and go on."""
    from dto.cluster.upkeep import upgrade

    with key_of(options):
        upgrade(cluster_name, reach_of(options), options_of(options), Person(), os.environ)


@cluster_command.command("backup")
@click.argument("file")
@cluster_name_option
@reach_options
def backup_command(file: str, cluster_name: str | None, **options: Any) -> None:
    """Save SLURM's state, the munge key and the database of the head into FILE."""
    from dto.cluster.upkeep import backup

    with key_of(options):
        backup(cluster_name, file, reach_of(options), Person(), os.environ)


@cluster_command.command("restore")
@click.argument("file")
@cluster_name_option
@reach_options
@yes_option
def restore_command(file: str, cluster_name: str | None, yes: bool, **options: Any) -> None:
    """Put the head, also a fresh one that was set up, back to what FILE holds."""
    from dto.cluster.upkeep import restore

    with key_of(options):
        restore(cluster_name, file, reach_of(options), Person(), os.environ, yes)


@cluster_command.command("status")
@cluster_name_option
@reach_options
@json_option
def status_command(cluster_name: str | None, as_json: bool, **options: Any) -> None:
    """Show nodes, their reasons, and the queue."""
    from dto.cluster.session import opened
    from dto.cluster.status import ask, tables

    with key_of(options), opened(cluster_name, Person(), os.environ, reach_of(options)) as session:
        with session.head() as head:
            status = ask(head)
    if as_json:
        echo_json(status.to_json())
        return
    echo_text(f"cluster {status.name} on {status.controller}, SLURM {status.version}\n\n")
    (node_head, nodes), (job_head, jobs) = tables(status)
    echo_table(node_head, nodes) if nodes else echo_text("no node has registered\n")
    echo_text("\n")
    echo_table(job_head, jobs) if jobs else echo_text("the queue is empty\n")


@cluster_command.command("doctor")
@cluster_name_option
@reach_options
@json_option
def doctor_command(cluster_name: str | None, as_json: bool, **options: Any) -> int:
    """Look every host over; say what is wrong, and what to do. The exit code is 1 then."""
    from dto.cluster.doctor import examine, to_json
    from dto.cluster.session import opened

    with key_of(options), opened(cluster_name, Person(), os.environ, reach_of(options)) as session:
        findings = examine(session)
    wrong = [finding for finding in findings if not finding.is_fine]
    if as_json:
        echo_json({"is_fine": not wrong, "findings": to_json(findings)})
        return 1 if wrong else 0
    rows = [(f.host, "ok" if f.is_fine else "WRONG", f.subject, f.text) for f in findings]
    echo_table(("host", "", "what", "found"), rows)
    for finding in wrong:
        echo_text(f"\n{finding.host}: {finding.subject}: {finding.text}\n")
        if finding.advice:
            echo_text(f"  {finding.advice}\n")
    return 1 if wrong else 0
