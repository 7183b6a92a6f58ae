"""Why a job ended: from how its ranks ended, the first real cause, and who was only a victim."""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

CHECKPOINTED = 85
"""What a rank returns after it saved and left because it was asked to."""

Kind = Literal[
    "completed",
    "error",
    "signal",
    "peer-lost",
    "agent-lost",
    "start-failed",
    "stopped",
    "cancelled",
]

# Errors that a rank shows because another one went away. The types are those of Horovod, of
# torch.distributed, of sockets and of dto; a RuntimeError counts only with one of the phrases.
_VICTIM_TYPES = {
    "HorovodInternalError",
    "DistNetworkError",
    "DistBackendError",
    "DistStoreError",
    "ConnectionResetError",
    "ConnectionRefusedError",
    "BrokenPipeError",
    "EOFError",
    "PeerLostError",
}
_VICTIM_PHRASES = re.compile(
    r"connection (closed|reset|refused|was closed)|closed by (peer|remote)|broken pipe|peer lost"
    r"|connect(ion)? timeout|timed out waiting for (recv|send)|socket (closed|error|timeout)"
    r"|remote process exited|other (rank|process)|has been shut ?down|failed to recv|stop_waiting"
    r"|unexpected eof|no such peer|heartbeat.*(dead|lost)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Ending:
    """How one rank ended. Times are seconds since the epoch."""

    rank: int
    node: str
    generation: int
    code: int | None
    signal: int | None
    t: float
    error_type: str = ""
    message: str = ""
    error_t: float | None = None
    last_step: int | None = None
    killed: bool = False
    """We ended it, because another one had failed or somebody asked."""

    @property
    def is_abnormal(self) -> bool:
        return not (self.signal is None and self.code in (0, CHECKPOINTED))

    @property
    def is_victim(self) -> bool:
        """It only suffered from another's end: we killed it, or it lost a peer."""
        if self.killed or self.signal == signals.SIGTERM:
            return True
        if self.error_type.rpartition(".")[2] in _VICTIM_TYPES:
            return True
        aborted = self.signal == signals.SIGABRT or self.error_type in ("RuntimeError", "OSError")
        return aborted and bool(_VICTIM_PHRASES.search(self.message))

    @property
    def first_sign(self) -> float:
        return self.error_t if self.error_t is not None else self.t


@dataclass(frozen=True)
class Verdict:
    """The first real cause; `exit_code` is the culprit's own (a signal: 128 + n)."""

    ok: bool
    exit_code: int
    cause: str
    kind: Kind
    rank: int | None = None
    node: str | None = None
    error_type: str = ""
    message: str = ""
    last_step: int | None = None
    victims: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def classify(endings: Sequence[Ending], lost_nodes: Sequence[str] = ()) -> Verdict:
    """Return the verdict on one generation.

    A rank's own error or signal is a cause; an error that only tells of a lost peer is not, as
    long as anything else explains it. Several causes: the one that showed first.
    """
    abnormal = sorted((e for e in endings if e.is_abnormal), key=lambda e: (e.first_sign, e.rank))
    causes = [e for e in abnormal if not e.is_victim]
    last_step = max((e.last_step for e in endings if e.last_step is not None), default=None)
    if causes:
        return _blame(causes[0], abnormal)
    if lost_nodes:
        node = lost_nodes[0]
        return Verdict(
            False,
            1,
            f"node {node} was lost: its agent stopped answering",
            "agent-lost",
            node=node,
            last_step=last_step,
            victims=[e.rank for e in abnormal],
        )
    if abnormal:
        return _only_victims(endings, abnormal, last_step)
    if any(e.code == CHECKPOINTED for e in endings):
        cause = "stopped on request after a checkpoint"
        return Verdict(False, CHECKPOINTED, cause, "stopped", last_step=last_step)
    return Verdict(True, 0, "all ranks finished", "completed", last_step=last_step)


def _blame(culprit: Ending, abnormal: Sequence[Ending]) -> Verdict:
    victims = sorted(e.rank for e in abnormal if e.rank != culprit.rank and e.is_victim)
    where = f"rank {culprit.rank} (node {culprit.node})"
    what = f": {culprit.error_type}: {culprit.message}".rstrip(": ") if culprit.error_type else ""
    step = f" after step {culprit.last_step}" if culprit.last_step else ""
    if culprit.signal is not None:
        how, code = f"was ended by {_signal_words(culprit.signal)}", 128 + culprit.signal
    else:
        how, code = f"exited {culprit.code}", culprit.code or 1
    return Verdict(
        False,
        code,
        f"{where} {how}{step}{what}",
        "signal" if culprit.signal else "error",
        culprit.rank,
        culprit.node,
        culprit.error_type,
        culprit.message,
        culprit.last_step,
        victims,
    )


def _only_victims(
    endings: Sequence[Ending], abnormal: Sequence[Ending], last_step: int | None
) -> Verdict:
    """Every failed rank lost a peer: blame who left early with 0, else the first to notice."""
    first = abnormal[0]
    early = [e for e in endings if not e.is_abnormal and e.t <= first.first_sign]
    if early and not first.killed:
        left = min(early, key=lambda e: e.t)
        cause = (
            f"rank {left.rank} (node {left.node}) exited {left.code} while others trained on: "
            "every rank must run the same number of steps"
        )
        return Verdict(
            False,
            1,
            cause,
            "peer-lost",
            left.rank,
            left.node,
            first.error_type,
            first.message,
            last_step,
            sorted(e.rank for e in abnormal),
        )
    return replace(_blame(first, abnormal), kind="peer-lost")


def _signal_words(number: int) -> str:
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hints: dict[int, str] = {
        signals.SIGKILL: " (kill -9, or the kernel's out-of-memory killer: see `dmesg`)",
        signals.SIGSEGV: " (a crash in native code)",
        signals.SIGBUS: " (shared memory or the disk is full?)",
    }
    return name + hints.get(number, "")
