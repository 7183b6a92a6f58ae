"""The entry point: imports a command only when it is called, words every error as one line."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from dto.errors import DtoError
from dto.runs.streams import settle_streams

# command -> (module, what `dto --help` says): listing them imports none of the modules
COMMANDS = {
    "run": ("train", "Train on this machine, or inside the allocation you are in."),
    "submit": ("train", "Submit a script to SLURM."),
    "render": ("train", "Print exactly what would be handed over."),
    "ls": ("runs", "List runs, newest first."),
    "status": ("runs", "Say how a run is doing, or why it ended."),
    "logs": ("runs", "Print what a run's ranks wrote."),
    "stop": ("control", "Let a run save, then stop."),
    "cancel": ("control", "End a run at once."),
    "resume": ("control", "Go on with a run from its last checkpoint."),
    "cluster": ("cluster", "Make SLURM clusters of bare hosts or in a cloud, and look after them."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"dto.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dto", message="dto %(version)s")
def dto() -> None:
    """Train one PyTorch script on this machine or on a SLURM cluster; kill it, and it goes on.

    Everything after SCRIPT belongs to the script, as with python and torchrun.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and leave with its exit code (design: contract 4)."""
    _fill_closed_streams()
    logging.basicConfig(level=logging.WARNING, format="dto: %(levelname)s: %(message)s")
    logging.addLevelName(logging.WARNING, "warning")
    try:
        code = dto.main(args=arguments, prog_name="dto", standalone_mode=False)
    except DtoError as error:
        code = _complain(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        code = _complain(_usage(error), error.exit_code)
    except click.Abort:
        code = 130
    except OSError as error:  # a full disk or a vanished mount, wherever it shows
        place = f"{error.filename}: " if error.filename else ""
        code = _complain(f"{place}{error.strerror or error}", 1)
    settle_streams()
    sys.exit(code)


def _fill_closed_streams() -> None:
    """Give what was closed (`>&-`) the null device: nothing later may take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "r" if number == 0 else "w"))


def _usage(error: click.ClickException) -> str:
    text = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text} (see `{context.command_path} --help`)" if context else text


def _complain(text: str, code: int) -> int:
    line = " ".join(text.split("\n"))
    with contextlib.suppress(OSError):  # stderr itself may be what is full
        click.echo(f"dto: error: {line}", err=True)
    return code
