"""How a playbook ended: its events folded into counts per host and the first failure, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

_VALIDATE, _VALIDATE_ROLE = "validate.yml", "validate"
_LONGEST = 400


@dataclass(frozen=True)
class Failure:
    """One task that failed on one host; `message` is one line."""

    host: str
    task: str
    role: str
    message: str
    is_validate: bool = False

    def __str__(self) -> str:
        where = f"{self.role}: {self.task}" if self.role else self.task
        return f"{self.host}: {where}: {self.message}"


@dataclass(frozen=True)
class Counts:
    """What the recap says of one host."""

    ok: int = 0
    changed: int = 0
    failed: int = 0
    unreachable: int = 0


@dataclass
class Outcome:
    """What a playbook did so far; `hosts` is the recap, empty while it runs or was cut off.

    `said` is what it tells people at its end, `remarks` what is worth knowing of hosts.
    """

    failures: list[Failure] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    changed_tasks: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    hosts: dict[str, Counts] = field(default_factory=dict)
    return_code: int | None = None

    def take(self, event: Mapping[str, Any]) -> None:
        """Fold one event of the callback plugin in."""
        kind = event["event"]
        if kind == "failed":
            self.failures.append(_failure(event))
        elif kind == "unreachable":
            self.unreachable[event["host"]] = one_line(_own_words(_words(event["result"])))
        elif kind == "changed":
            self.changed_tasks.setdefault(event["host"], []).append(_label(event))
        elif kind == "said":
            lines = self.remarks if event["role"] == _VALIDATE_ROLE else self.said
            if (text := one_line(str(event["text"]))) not in lines:
                lines.append(text)
        elif kind == "end":
            self.hosts = {name: _counts(found) for name, found in event["hosts"].items()}

    def real_failures(self) -> list[Failure]:
        """Return what ended a host: the last failure of each that the recap calls failed.

        Those before it were rescued, or led to it.
        """
        last = {failure.host: failure for failure in self.failures}
        if not self.hosts:
            return list(last.values())
        return [failure for name, failure in last.items() if self.hosts[name].failed]

    @property
    def changed(self) -> dict[str, int]:
        return {name: counts.changed for name, counts in self.hosts.items()}

    @property
    def is_fine(self) -> bool:
        return self.return_code == 0 and not self.real_failures() and not self.unreachable


def fold(events: Iterable[Mapping[str, Any]]) -> Outcome:
    outcome = Outcome()
    for event in events:
        outcome.take(event)
    return outcome


def _label(event: Mapping[str, Any]) -> str:
    return f"{event['role']}: {event['task']}" if event["role"] else str(event["task"])


def _failure(event: Mapping[str, Any]) -> Failure:
    file = PurePath(event["path"].rpartition(":")[0]).name
    return Failure(
        host=event["host"],
        task=event["task"],
        role=event["role"],
        message=one_line(_words(event["result"])),
        is_validate=event["role"] == _VALIDATE_ROLE or file == _VALIDATE,
    )


def _counts(found: Mapping[str, int]) -> Counts:
    return Counts(found["ok"], found["changed"], found["failures"], found["unreachable"])


def _words(result: Mapping[str, Any]) -> str:
    """Return what a module says went wrong: its message, a command's last words, a loop's items."""
    items = result.get("results") or []
    if items:
        return "; ".join(_item_words(item) for item in items[:3])
    if "censored" in result:
        return "failed; its words are hidden since they may hold a secret"
    message = str(result.get("msg") or "").strip()
    said = str(result.get("stderr") or "").strip() or str(result.get("stdout") or "").strip()
    if not message or message.startswith("non-zero return code"):
        code = f"exit code {result['rc']}" if "rc" in result else "failed without a word"
        return f"{code}: {_last_line(said)}" if said else code
    return message


def _item_words(item: Mapping[str, Any]) -> str:
    words = _words({**item, "results": []})
    name = item.get("item")
    return f"{name}: {words}" if isinstance(name, str) else words


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _own_words(text: str) -> str:
    """Return what ssh itself said last, out of what Mitogen quotes of it."""
    _, is_quoted, quoted = text.partition("lines received:")
    return (_last_line(quoted) if is_quoted else "") or text


def one_line(text: str) -> str:
    """Fold text into one line of bearable length, without colours and Ansible's own preamble."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    plain = re.sub(r"(^|: )Task failed: ", r"\1", " ".join(plain.split()))
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
