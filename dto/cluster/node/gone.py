"""Takes out of SLURM what a cloud took away for good; its replacement has another name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from dto.cluster.node import retire, slurm
from dto.cluster.node.errors import NodeError
from dto.cluster.node.facts import Node
from dto.cluster.node.trouble import Trouble

_log = logging.getLogger("dto.gone")
_EVERY_SECONDS = 5.0


class Gone:
    """Remembers since when a node that left has been silent."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._silent: dict[str, float] = {}

    def ripe(
        self,
        nodes: Iterable[slurm.NodeState],
        is_dead: Callable[[slurm.NodeState], bool],
        now: float,
    ) -> list[slurm.NodeState]:
        """Return the nodes that left and have been silent for long enough.

        Of those that are `gone` the cloud itself has said so.
        """
        left = [node for node in nodes if node.is_drained and node.has_reason("spot", "gone")]
        with ThreadPoolExecutor(max_workers=16) as pool:
            dead = [node for node, gone in zip(left, pool.map(is_dead, left), strict=True) if gone]
        self._silent = {node.name: self._silent.get(node.name, now) for node in dead}
        return [node for node in dead if node.has_reason("gone")
                or now - self._silent[node.name] >= self._seconds]  # fmt: skip


def watch(node: Node) -> None:
    """Run for ever, as a thread of the head's service."""
    gone = Gone(node.gone_seconds)
    trouble = Trouble(_log.warning, NodeError)
    while True:
        with trouble:
            ripe = gone.ripe(slurm.nodes(), lambda one: _is_dead(one, node), time.monotonic())
            # A job that waits for more nodes than SLURM knows is held for good (BadConstraints).
            for one in ripe if not slurm.jobs("--states=PENDING") else ():
                forget(one)
        time.sleep(_EVERY_SECONDS)


def _is_dead(state: slurm.NodeState, node: Node) -> bool:
    return retire.is_dead(state.address, node.peer_port)


def forget(state: slurm.NodeState) -> None:
    """Delete a dead node; as it goes down SLURM queues again what it thinks still runs there."""
    reason = slurm.reason_text(state.reason)
    if not state.is_down:
        slurm.change("update", f"nodename={state.name}", "state=down", f"reason={reason}")
    _log.info("%s (%s)", retire.delete(state.name), reason)
