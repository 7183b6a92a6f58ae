"""What goes wrong again and again in a service is told once."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Trouble:
    """`with trouble:` tells of an error of these kinds and goes on; again the same is silent."""

    def __init__(self, tell: Callable[[str], None], *kinds: type[Exception]) -> None:
        self._tell, self._kinds = tell, kinds
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
                self._tell(str(error))
            self.words = str(error)
            return True
        return False
