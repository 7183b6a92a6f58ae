"""What Terraform says in frames and in colours, in one line."""

from __future__ import annotations

import re
from itertools import dropwhile, takewhile
from pathlib import Path

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PLACE = re.compile(r"(with|on) .*[,:{]$|\d+: ")
_ID = re.compile(r"\bID:\s*(\S+)")
_WHO = re.compile(r"\bWho:\s*(\S+)")
_SINCE = re.compile(r"\bCreated:\s*(\S+ \S+)")
_LONGEST = 300


def gist(said: str) -> str:
    """Return the first error: its title, and the first paragraph that is no place in a file."""
    lines = [line.strip(" │╷╵|") for line in _COLOUR.sub("", said).splitlines()]
    errors = [i for i, line in enumerate(lines) if line.startswith("Error: ")]
    if not errors:
        lines = [line for line in lines if line]
        return lines[-1][:_LONGEST] if lines else "it failed without a word"
    end = errors[1] if len(errors) > 1 else len(lines)
    rest = dropwhile(lambda line: not line or _PLACE.match(line), lines[errors[0] + 1 : end])
    detail = " ".join(takewhile(bool, rest))
    title = lines[errors[0]].removeprefix("Error: ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return (f"{title}: {detail}" if detail else title)[:_LONGEST] + more


def lock_words(said: str, folder: Path) -> str | None:
    """Say who holds the state, and how to free it where they are dead."""
    plain = _COLOUR.sub("", said)
    if "Error acquiring the state lock" not in plain:
        return None
    found = {
        name: match[1] if (match := pattern.search(plain)) else "somebody"
        for name, pattern in (("id", _ID), ("who", _WHO), ("since", _SINCE))
    }
    text = f"{found['who']} has locked the state since {found['since']}: wait for that terraform"
    return f"{text}; if it is dead: terraform -chdir={folder} force-unlock {found['id']}"
