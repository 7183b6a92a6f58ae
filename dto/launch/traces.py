"""The exception at the end of a rank's log, for scripts that know nothing of dto."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL_BYTES = 256 * 1024
_LONGEST_MESSAGE = 500
# A type's name may hold letters of any script, and `<locals>` where a function defines it.
_FINAL_LINE = re.compile(r"(?P<type>[^\W\d](?:[\w.]|<locals>)*)(?:: (?P<message>.*))?$")
_HEAD = "Traceback (most recent call last):"
_GROUP_HEAD = re.compile(r"(?P<prefix>.*?)\+ Exception Group " + re.escape(_HEAD))
# What keeps a script from being compiled is told without a head.
_HEADLESS = re.compile(r"(?P<type>(?:Syntax|Indentation|Tab)Error): (?P<message>.*)$")


def read_tail(path: Path, start: int = 0) -> str:
    """Return the last 256 KiB of a log as text, not reaching back before `start`."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def one_line(text: str) -> str:
    """Return a message fit for one line: whatever a script says must not steer a terminal."""
    words = " ".join(text[: 4 * _LONGEST_MESSAGE].split())
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in words)
    return clean if len(clean) <= _LONGEST_MESSAGE else clean[: _LONGEST_MESSAGE - 1] + "…"


def find_cause(text: str, code: int | None = None) -> tuple[str, str]:
    """Return the last exception's type and message; without one, "" and the last line there is.

    An exception that nobody caught ends Python with code 1. Of any other code it is the cause
    only if it is the last thing that was said.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    error_type, message = find_exception(text)
    if error_type and (code in (None, 1) or last.endswith(message or error_type)):
        return error_type, one_line(message)
    return "", one_line(last)


def find_exception(text: str) -> tuple[str, str]:
    """Return type and first message line of the last Python traceback, or two empty strings.

    In a chain ("During handling of ... another exception occurred") the last one is what ended
    the process; of a group, it is the group. Lines that another rank or thread wrote in between
    are passed over.
    """
    lines = text.splitlines()
    heads = [
        place for place, line in enumerate(lines) if line.endswith(_HEAD) and not _is_member(line)
    ]
    if not heads:
        compiling = [match for line in lines if (match := _HEADLESS.match(line))]
        return (compiling[-1]["type"], compiling[-1]["message"]) if compiling else ("", "")
    head = heads[-1]
    group = _GROUP_HEAD.match(lines[head])
    prefix = f"{group['prefix']}| " if group else lines[head][: -len(_HEAD)]
    for line in lines[head + 1 :]:
        rest = line.removeprefix(prefix)
        if rest[:1] in ("", " ", "\t", "|", "+"):
            continue
        match = _FINAL_LINE.match(rest)
        if match:
            return match["type"], (match["message"] or "").strip()
    return "", ""


def _is_member(line: str) -> bool:
    """Tell whether the head of a traceback stands inside the picture of a group."""
    return line.removesuffix(_HEAD).rstrip().endswith("|")
