"""The last moment of a command's own output."""

from __future__ import annotations

import os
import sys


def settle_streams() -> None:
    """Flush stdout and stderr, and drop what a full disk or a closed pipe would not take.

    What fails to be written is said where it is written. Left in the buffer, it would fail once
    more when Python ends, which then leaves with 120 whatever code we meant.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
