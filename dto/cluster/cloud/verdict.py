"""What a check before an apply found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dto.cluster.session import Terminal
from dto.errors import PreflightError


@dataclass(frozen=True)
class Verdict:
    """`failures` stop an apply; `notes` say what could not be looked at."""

    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.failures + other.failures, self.notes + other.notes)


def summed(verdicts: Iterable[Verdict]) -> Verdict:
    return sum(verdicts, Verdict())


def judge(verdict: Verdict, terminal: Terminal) -> None:
    """Tell the notes; refuse where anything failed, each thing in a line of its own.

    Raises:
        PreflightError: the last failure; those before it are warnings.
    """
    for note in verdict.notes:
        terminal.warn(note)
    for failure in verdict.failures[:-1]:
        terminal.warn(failure)
    if verdict.failures:
        raise PreflightError(f"{verdict.failures[-1]}; nothing was made")
