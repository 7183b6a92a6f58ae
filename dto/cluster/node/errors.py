"""What goes wrong on a host and a person can mend; one line each. dto.errors is not there."""

from __future__ import annotations


class NodeError(Exception):
    """Shown as one line; `exit_code` is what the program returns."""

    exit_code = 1


class UnreachableError(NodeError):
    """The other side does not answer."""

    exit_code = 3


class MungeError(NodeError):
    """The key is missing, differs from the other side's, or a clock is far off."""


class SlurmError(NodeError):
    """SLURM refused, or did not answer."""

    exit_code = 3
