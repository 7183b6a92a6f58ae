"""What one part of the model hands to the next; its shapes go ahead of the first of a kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dto.errors import ConfigError, WorldError
from dto.runtime.pipeline.links import Links, Message, Shape, UnderWay, What


class Activations:
    """The way from each part to the next.

    A part lies on the stage that its number leaves when divided by the number of stages. Shapes
    depend on the part and on a `key`, the shapes of the micro-batch; they are sent once.
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self._told: dict[tuple[int, str], list[Shape]] = {}
        self._coming: dict[tuple[int, str], list[Shape]] = {}

    def send(
        self, part: int, number: int, key: str, outputs: Sequence[torch.Tensor]
    ) -> list[UnderWay]:
        """Send what `part` made of micro-batch `number`: the tensors last, before them the shapes.

        Raises:
            ConfigError: these are no tensors.
            WorldError: the same input gave other shapes before.
        """
        if not all(isinstance(output, torch.Tensor) for output in outputs):
            kinds = ", ".join(sorted({type(output).__name__ for output in outputs}))
            raise ConfigError(f"a stage hands on a tensor or a tuple of tensors, not {kinds}")
        peer, shapes = (part + 1) % self._links.stages, [Shape.of(output) for output in outputs]
        known = self._told.setdefault((part, key), shapes)
        if known != shapes:
            raise WorldError(
                f"stage {self._links.stage} made {shapes} of an input of which it made {known}"
                " before: in a pipeline, shapes may depend on the input's shape alone"
            )
        sent = []
        if known is shapes:
            name = Message(What.SHAPES, peer, number, part + 1)
            sent.append(self._links.send_shapes(name, shapes))
        name = Message(What.ACTIVATION, peer, number, part + 1)
        return [*sent, self._links.send(name, outputs)]

    def shapes(self, part: int, key: str) -> list[Shape] | None:
        """What comes to `part`, where it is known already."""
        return self._coming.get((part, key))

    def learn(self, part: int, number: int, key: str) -> list[Shape]:
        """What comes to `part`; waits for it to be told where it is not known."""
        known = self._coming.get((part, key))
        if known is None:
            name = Message(What.SHAPES, (part - 1) % self._links.stages, number, part)
            known = self._coming[part, key] = self._links.receive_shapes(name)
        return known

    def receive(self, part: int, number: int, shapes: Sequence[Shape]) -> UnderWay:
        """Begin to receive what `part` needs of micro-batch `number`."""
        name = Message(What.ACTIVATION, (part - 1) % self._links.stages, number, part)
        return self._links.receive(name, shapes)
