"""Prints what commands found: bytes as they are, tables for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click


def echo_text(text: str) -> None:
    """Print text that may hold surrogate escapes, as the bytes that they stand for."""
    echo_bytes(os.fsencode(text))


def echo_bytes(raw: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def echo_json(value: Any) -> None:
    """Print one object on one line; ASCII, so that no byte can be lost."""
    click.echo(json.dumps(value))


def echo_note(text: str) -> None:
    """Say something to a person, out of the way of what is printed for programs."""
    with contextlib.suppress(OSError):  # nobody reads it, or a full disk: the job goes on
        click.echo(f"dto: {text}", err=True)


def echo_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        echo_text("  ".join(cells).rstrip() + "\n")
