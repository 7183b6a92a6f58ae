"""This machine: the job takes the place of the command that started it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from dto.errors import DtoError
from dto.jobs.schedulers.base import outside_environment


def hand_over(script: Path, env: Mapping[str, str]) -> NoReturn:
    """Become the job. Nothing of this process stays: its exit code and its signals are the job's.

    Raises:
        DtoError: there is no bash here.
    """
    try:
        os.execve("/bin/bash", ["bash", os.fspath(script)], outside_environment(env))
    except OSError as error:
        raise DtoError(f"cannot start /bin/bash ({error.strerror}): install bash") from None
