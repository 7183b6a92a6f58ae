"""Carries the steps of a schedule out, in segments, so that adding and sending overlap."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import torch

from dto.errors import PeerLostError, WorldError
from dto.runtime.collectives.schedule import Move, Span, Step
from dto.runtime.transport.base import Message, Messenger

SEGMENT_BYTES = 1 << 20
"""Small enough that the first segment goes on while the others come in; see `_chained`."""
_DATA, _HEADER = 0xD70, 0xD71


class Wire:
    """Sends and receives for one collective at a time, and counts what was sent to whom."""

    def __init__(self, messenger: Messenger, timeout_seconds: float) -> None:
        self._messenger = messenger
        self.timeout_seconds = self._seconds = timeout_seconds
        self.bytes_sent = [0] * messenger.size
        self._scratch: dict[torch.dtype, torch.Tensor] = {}
        self._deadline = 0.0
        self._call = ""

    def begin(self, call: str, seconds: float | None = None) -> None:
        """All waits from here on share one time limit; `call` is for the words of an error."""
        self._seconds = self.timeout_seconds if seconds is None else seconds
        self._deadline = time.monotonic() + self._seconds
        self._call = call

    def exchange_headers(self, header: torch.Tensor) -> list[torch.Tensor]:
        """Everybody's header, by rank.

        Each rank hears from each other directly: who is missing is known at once, and by name.
        A rank that finds one lost still answers the others, so that they name the same one.
        """
        rank, size = self._messenger.rank, self._messenger.size
        found = [header if peer == rank else torch.empty_like(header) for peer in range(size)]
        messages: list[tuple[Message, int]] = []
        lost: list[WorldError] = []
        for peer in range(size):
            if peer == rank:
                continue
            try:
                messages.append((self._receive(found[peer], peer, _HEADER), peer))
                messages.append((self._send(header, peer, _HEADER), peer))
            except WorldError as error:
                lost.append(error)
        for message, peer in messages:
            try:
                self.wait(message, peer)
            except WorldError as error:
                lost.append(error)
        if lost:
            raise lost[0]
        return found

    def run(self, flat: torch.Tensor, steps: Sequence[Step]) -> None:
        """Take the steps on `flat`, in place.

        Two steps overlap where the second only passes on what the first brings in: a segment
        leaves as soon as it has been added. Receives are posted a step ahead where nothing else
        goes on in their place, so that what a peer sends need not wait for us.
        """
        running = _Running(self, flat, steps)
        pairs = list(itertools.pairwise([*steps, None]))
        for number, (step, after) in enumerate(pairs):
            assert step is not None
            running.post_receives(number)
            if number == 0 or not _chained(steps[number - 1], step):
                running.post_sends(step)
            if after is not None and _can_land_early(step, after):
                running.post_receives(number + 1)
            running.finish(number, after if after and _chained(step, after) else None)

    def scratch(self, dtype: torch.dtype, numel: int) -> torch.Tensor:
        """Room for what comes in and must be added; kept, and grown where it is too small."""
        kept = self._scratch.get(dtype)
        if kept is None or kept.numel() < numel:
            kept = self._scratch[dtype] = torch.empty(numel, dtype=dtype)
        return kept

    def send(self, tensor: torch.Tensor, peer: int) -> Message:
        self.bytes_sent[peer] += tensor.numel() * tensor.element_size()
        return self._send(tensor, peer, _DATA)

    def receive(self, tensor: torch.Tensor, peer: int) -> Message:
        return self._receive(tensor, peer, _DATA)

    def wait(self, message: Message, peer: int) -> None:
        try:
            message.wait(max(0.001, self._deadline - time.monotonic()))
        except RuntimeError as error:
            raise self._lost(peer, error) from error

    def _send(self, tensor: torch.Tensor, peer: int, tag: int) -> Message:
        try:
            return self._messenger.send_async(tensor, peer, tag)
        except RuntimeError as error:
            raise self._lost(peer, error) from error

    def _receive(self, tensor: torch.Tensor, peer: int, tag: int) -> Message:
        try:
            return self._messenger.receive_async(tensor, peer, tag)
        except RuntimeError as error:
            raise self._lost(peer, error) from error

    def _lost(self, peer: int, error: RuntimeError) -> WorldError:
        if time.monotonic() >= self._deadline or "Timed out" in str(error):
            how = f"did not answer within {self._seconds:g} s"
        else:
            how = "went away"
        return PeerLostError(f"rank {peer} {how} in {self._call}: {str(error).splitlines()[0]}")


class _Running:
    """The messages under way of one schedule on one tensor."""

    def __init__(self, wire: Wire, flat: torch.Tensor, steps: Sequence[Step]) -> None:
        self._wire, self._flat, self._steps = wire, flat, steps
        moves = [step.receive for step in steps if step.adds and step.receive is not None]
        self._longest = max((move.end - move.begin for move in moves), default=0)
        self._scratch = wire.scratch(flat.dtype, 2 * self._longest)
        self._coming: dict[int, list[tuple[Message, Span]]] = {}
        self._going: list[tuple[Message, int]] = []

    def post_receives(self, number: int) -> None:
        """Start all receives of a step, unless that has been done ahead."""
        move = self._steps[number].receive
        if number in self._coming or move is None:
            return
        self._coming[number] = [
            (self._wire.receive(self._landing(number, span), move.peer), span)
            for span in self._segments(move)
        ]

    def post_sends(self, step: Step) -> None:
        for span in self._segments(step.send):
            self._post_send(step, span)

    def finish(self, number: int, chained: Step | None) -> None:
        """Wait for a step; what comes in leaves again at once if the next step is `chained`."""
        going, self._going = self._going, []
        step = self._steps[number]
        for message, span in self._coming.pop(number, ()):
            assert step.receive is not None
            self._wire.wait(message, step.receive.peer)
            if step.adds:
                self._flat[slice(*span)].add_(self._landing(number, span))
            if chained is not None:
                self._post_send(chained, span)
        for message, peer in going:
            self._wire.wait(message, peer)

    def _segments(self, move: Move | None) -> list[Span]:
        if move is None:
            return []
        length = SEGMENT_BYTES // self._flat.dtype.itemsize
        begins = range(move.begin, move.end, length)
        return [(begin, min(begin + length, move.end)) for begin in begins]

    def _landing(self, number: int, span: Span) -> torch.Tensor:
        """Where a segment comes in: in its place, or in the scratch if it is to be added.

        Steps take turns with the two halves of the scratch.
        """
        step = self._steps[number]
        if not step.adds:
            return self._flat[slice(*span)]
        assert step.receive is not None
        offset = number % 2 * self._longest - step.receive.begin
        return self._scratch[span[0] + offset : span[1] + offset]

    def _post_send(self, step: Step, span: Span) -> None:
        assert step.send is not None
        message = self._wire.send(self._flat[slice(*span)], step.send.peer)
        self._going.append((message, step.send.peer))


def _chained(before: Step, after: Step) -> bool:
    """`after` sends exactly what `before` brings in."""
    return (
        before.receive is not None
        and after.send is not None
        and before.receive.span == after.send.span
    )


def _can_land_early(step: Step, after: Step) -> bool:
    """What comes in with `after` takes no place where `step` still works."""
    if after.receive is None or after.adds:
        return True
    begin, end = after.receive.span
    moves = [move for move in (step.send, step.receive) if move is not None]
    return all(end <= move.begin or move.end <= begin for move in moves)
