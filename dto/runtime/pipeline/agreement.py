"""The small talk around a batch: before, that all stages have the same; after, what came of it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

from dto.errors import WorldError
from dto.runtime.pipeline.engine import MicroBatch
from dto.runtime.pipeline.links import Links, Message, Shape, UnderWay, What

_DIGEST = Shape((1,), torch.int64, False)
_VALUES = 2
_FOUND = Shape((_VALUES,), torch.float64, False)


class Agreement:
    """One word to the next stage, and one from the last stage to each: nobody waits for all."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._last = links.stages - 1
        self._sent: list[UnderWay] = []
        self._coming: UnderWay | None = None

    def begin(self, batch: Sequence[MicroBatch], what: str) -> None:
        """Another batch, or `what` else to do with it, would hang or mislead.

        Raises:
            WorldError: the stage before has something else.
        """
        links, stage = self._links, self._links.stage
        mine = f"{what} {len(batch)} {batch[0].key} {batch[-1].key}"
        digest = torch.tensor([zlib.crc32(mine.encode())])
        if stage < self._last:
            self._sent.append(links.send(Message(What.BATCH, stage + 1), [digest]))
            # expected from now on, so that it comes at once
            self._coming = links.receive(Message(What.FOUND, self._last), [_FOUND])
        if stage:
            (theirs,) = links.receive(Message(What.BATCH, stage - 1), [_DIGEST]).wait()
            if not torch.equal(theirs, digest):
                raise WorldError(
                    f"stage {stage} got another batch than stage {stage - 1}: here {what} with"
                    f" micro-batches of {batch[0].key}; give every rank of a pipeline the same"
                )

    def end(self, *found: float) -> list[float]:
        """What the last stage found, at most two values; those of others do not count."""
        values = torch.tensor([*found, *[0.0] * (_VALUES - len(found))], dtype=torch.float64)
        if self._coming is not None:
            (values,) = self._coming.wait()
        else:
            others = range(self._last)
            self._sent += [self._links.send(Message(What.FOUND, n), [values]) for n in others]
        for sent in self._sent:
            sent.wait()
        self._sent.clear()
        self._coming = None
        return list(values.tolist())
