"""This machine: the job takes the place of the command that started it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from dto.errors import DtoError

_OF_A_RANK = ("DTO_RUN_DIR", "DTO_ATTEMPT", "DTO_GENERATION", "DTO_SOCKET", "DTO_DEADLINE",
              "DTO_NODE", "DTO_COORDINATOR", "DTO_TOKEN")  # fmt: skip


def hand_over(script: Path, env: Mapping[str, str]) -> NoReturn:
    """Become the job. Nothing of this process stays: its exit code and its signals are the job's.

    Raises:
        DtoError: there is no bash here.
    """
    try:
        os.execve("/bin/bash", ["bash", os.fspath(script)], outside_environment(env))
    except OSError as error:
        raise DtoError(f"cannot start /bin/bash ({error.strerror}): install bash") from None


def outside_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Drop what an enclosing run of dto told its ranks: the new run is not that run."""
    return {k: v for k, v in env.items() if "DTO_RUN_DIR" not in env or k not in _OF_A_RANK}
