"""Looks on Nebius for what a cluster left, through Nebius's own program where it is installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from dto.cluster.cloud.sweep import Found, Leftover

LABEL = "dto-cluster"
_SECONDS = 60.0
# kind -> the words between `nebius` and `list`
_KINDS = {
    "instance": ("compute", "instance"),
    "disk": ("compute", "disk"),
    "filesystem": ("compute", "filesystem"),
    "GPU cluster": ("compute", "gpu-cluster"),
    "address": ("vpc", "allocation"),
    "security group": ("vpc", "security-group"),
    "subnet": ("vpc", "subnet"),
    "network": ("vpc", "network"),
    "bucket": ("storage", "bucket"),
}
_RULE = ("vpc", "security-rule")
_WAITS = "SCHEDULED_FOR_DELETION"


class NoAnswer(Exception):
    """The program did not say what was asked for; the words are for a person."""


def find(name: str, project: str) -> Found:
    """List everything in a project that is labelled dto-cluster=NAME."""
    left: list[Leftover] = []
    unseen: list[str] = []
    for kind, words in _KINDS.items():
        try:
            found = parse(kind, words, _listing(words, project), name)
            left += found
            if kind == "security group":
                left += [rule for group in found for rule in _rules(group.id)]
        except FileNotFoundError:
            typed = " ".join(list_command(_KINDS["instance"], project))
            note = f"the nebius program is not installed here; look yourself: {typed}, and so on"
            return Found((), tuple(_KINDS), (note,))
        except NoAnswer as error:
            unseen.append(f"{kind} ({error})")
    return Found(tuple(left), tuple(unseen))


def _rules(group: str) -> list[Leftover]:
    """All rules of a group of ours, also those that a person added: it does not go before them."""
    return parse("security rule", _RULE, _listing(_RULE, group), None)


def _listing(words: Sequence[str], parent: str) -> str:
    try:
        done = run(list_command(words, parent), _SECONDS)
    except subprocess.TimeoutExpired:
        raise NoAnswer("no answer") from None
    if done.returncode:
        raise NoAnswer(words_of(done))
    return done.stdout


def run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
        errors="replace", timeout=seconds,
    )  # fmt: skip


def words_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return why the program failed, in one line."""
    return " ".join(done.stderr.split())[:200] or f"exit code {done.returncode}"


def list_command(words: Sequence[str], parent: str) -> list[str]:
    return ["nebius", *words, "list", "--parent-id", parent, "--all", "--format", "json"]


def parse(kind: str, words: Sequence[str], text: str, name: str | None) -> list[Leftover]:
    """Take what has our label out of a listing, with the command that deletes it.

    Without a name it is all of them. Raises NoAnswer for what is no listing.
    """
    try:
        items: list[dict[str, Any]] = json.loads(text or "{}").get("items") or []
        found = [(one.get("metadata") or {}, one.get("status") or {}) for one in items]
    except (ValueError, AttributeError):
        raise NoAnswer("what it said is no listing") from None
    return [
        Leftover(kind, str(said.get("id")), command=_delete_command(words, said, status))
        for said, status in found
        if name is None or (said.get("labels") or {}).get(LABEL) == name
    ]


def _delete_command(
    words: Sequence[str], said: dict[str, Any], status: dict[str, Any]
) -> tuple[str, ...]:
    """A bucket would stay for a week; one that somebody deleted so is there until it is purged."""
    verb = "purge" if status.get("state") == _WAITS else "delete"
    command = ("nebius", *words, verb, "--id", str(said.get("id")))
    is_bucket = tuple(words) == _KINDS["bucket"]
    return (*command, "--ttl", "0s") if is_bucket and verb == "delete" else command
