"""Before machines go, what runs on them is asked to save: node by node, by the head."""

from __future__ import annotations

from collections.abc import Sequence

from dto.cluster.session import Session
from dto.cluster.status import ask
from dto.remote.host import Result

STOP_SECONDS = 600.0
_AT_ONCE = 32
_MORE_SECONDS = 150.0  # what `retire` may need beyond its limit, for requeueing
_PROGRAM = "/usr/local/lib/dto/node.pyz"


def stop_jobs(session: Session, limit_seconds: float) -> list[str]:
    """Drain all nodes, then have the jobs on them save and leave; return what went wrong.

    Raises:
        ClusterError: the head, or SLURM on it, does not answer.
    """
    with session.head() as head:
        names = [node.name for node in ask(head).nodes]
        if not names:
            return []
        # all first: a job that leaves one node must not start again on the next
        reason = ["state=drain", "reason=dto: down"]
        head.run(["scontrol", "update", f"nodename={','.join(names)}", *reason], sudo=True)
        done = head.run(
            retire_command(limit_seconds),
            input="".join(f"{name}\n" for name in names),
            timeout=-(-len(names) // _AT_ONCE) * (limit_seconds + _MORE_SECONDS),
            sudo=True,
        )
    return problems_of(done, names)


def retire_command(limit_seconds: float) -> list[str]:
    """xargs reads the names: however many nodes there are, so many run side by side."""
    return [
        "xargs", "-P", str(_AT_ONCE), "-I", "{}", "python3", _PROGRAM, "retire", "{}",
        "--why", "down", "--limit", f"{limit_seconds:g}",
    ]  # fmt: skip


def problems_of(done: Result, names: Sequence[str]) -> list[str]:
    """Return the errors of `retire`, else whatever xargs or sudo had to say."""
    if done.is_ok:
        return []
    lines = [line.strip() for line in done.err.splitlines() if line.strip()]
    errors = [line[len("error: ") :] for line in lines if line.startswith("error: ")]
    return list(dict.fromkeys(errors)) or lines[-1:] or [f"{len(names)} nodes could not be emptied"]
