"""Errors a user can act on; anything else is a bug and keeps its traceback."""

from __future__ import annotations


class DtoError(Exception):
    """Shown as one line, without a traceback; `exit_code` is what the command returns."""

    exit_code = 1


class UsageError(DtoError):
    """What was typed cannot be meant."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is missing, misspelt or out of range."""


class ClusterError(DtoError):
    """The cluster cannot be reached, or a tool of it is absent."""

    exit_code = 3


class SchedulerError(DtoError):
    """The scheduler refused the request; its own words are in the message."""

    exit_code = 4


class PreflightError(DtoError):
    """A node cannot run this job; found before any rank was started."""

    exit_code = 5


class CheckpointError(DtoError):
    """A checkpoint is damaged, or does not fit the model it is loaded into."""


class WorldError(DtoError):
    """The ranks do not agree on who they are: a half-set environment, a mismatched world."""


class PeerLostError(WorldError):
    """Another rank went away or does not answer; the verdict looks for the cause elsewhere."""
