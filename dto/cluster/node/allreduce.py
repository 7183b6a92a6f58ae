"""An all-reduce of two hosts over one socket: the traffic of a training step, and its speed.

The sum is XOR over whole buffers: Python does it at the speed of memory, and a wrong bit shows.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from dataclasses import dataclass

SIZE = 8 * 1024 * 1024
ROUNDS = 3


@dataclass(frozen=True)
class Reduced:
    """`gbps` is of the fastest round: bytes reduced, times eight, over its seconds."""

    is_right: bool
    gbps: float


def buffer(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def xor(left: bytes, right: bytes) -> bytes:
    value = int.from_bytes(left, "little") ^ int.from_bytes(right, "little")
    return value.to_bytes(len(left), "little")


def receive(link: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view, got = memoryview(data), 0
    while got < count:
        more = link.recv_into(view[got:])
        if not more:
            raise ConnectionError("the other side has hung up")
        got += more
    return bytes(data)


def exchange(link: socket.socket, mine: bytes, count: int) -> bytes:
    """Send and receive at the same time: two hosts that both send first would wait for ever."""
    failures: list[OSError] = []

    def send() -> None:
        try:
            link.sendall(mine)
        except OSError as error:
            failures.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    theirs = receive(link, count)
    sender.join()
    if failures:
        raise failures[0]
    return theirs


def all_reduce(link: socket.socket, mine: bytes, is_first: bool) -> bytes:
    """Reduce-scatter, then all-gather: each side owns one half."""
    half = len(mine) // 2
    low, high = mine[:half], mine[half:]
    kept, given = (low, high) if is_first else (high, low)
    reduced = xor(kept, exchange(link, given, len(kept)))
    other = exchange(link, reduced, len(given))
    return reduced + other if is_first else other + reduced


def measure(
    link: socket.socket, seed: str, is_first: bool, size: int = SIZE, rounds: int = ROUNDS
) -> Reduced:
    """Run on both sides with one seed; each makes its own buffer and knows what must come out."""
    mine, theirs = (buffer(f"{seed}{side}", size) for side in (is_first, not is_first))
    expected = xor(mine, theirs)
    is_right, best = True, 0.0
    for _ in range(rounds):
        began = time.monotonic()
        found = all_reduce(link, mine, is_first)
        seconds = max(time.monotonic() - began, 1e-9)
        is_right = is_right and found == expected
        best = max(best, size * 8 / seconds / 1e9)
    return Reduced(is_right, best)
