"""What goes wrong again and again in a service is told once."""

from __future__ import annotations

import logging
from types import TracebackType


class Trouble:
    """`with trouble:` logs an error of these kinds and goes on; the same one again is silent."""

    def __init__(self, log: logging.Logger, *kinds: type[Exception]) -> None:
        self._log, self._kinds = log, kinds
        self.words = ""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            self.words = ""
        elif isinstance(error, self._kinds):
            if str(error) != self.words:
                self._log.warning("%s", error)
            self.words = str(error)
            return True
        return False
