"""The exception at the end of a rank's log, for scripts that know nothing of dto."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL_BYTES = 64 * 1024
_FINAL_LINE = re.compile(r"(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
_HEAD = "Traceback (most recent call last):"


def read_tail(path: Path, start: int = 0) -> str:
    """Return the last 64 KiB of a log as text, not reaching back before `start`."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def find_cause(text: str) -> tuple[str, str]:
    """Return the last exception's type and message; without one, "" and the last line there is."""
    error_type, message = find_exception(text)
    if error_type:
        return error_type, message
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "", lines[-1] if lines else ""


def find_exception(text: str) -> tuple[str, str]:
    """Return type and first message line of the last Python traceback, or two empty strings.

    In a chain ("During handling of ... another exception occurred") the last one is what ended
    the process. Lines that another rank or thread wrote in between are passed over.
    """
    lines = text.splitlines()
    heads = [place for place, line in enumerate(lines) if line.strip().endswith(_HEAD)]
    if not heads:
        return "", ""
    head = heads[-1]
    prefix = lines[head][: lines[head].index(_HEAD)]
    for line in lines[head + 1 :]:
        rest = line.removeprefix(prefix)
        if rest[:1] in ("", " ", "\t", "|", "+"):
            continue
        match = _FINAL_LINE.match(rest)
        if match:
            return match["type"], (match["message"] or "").strip()
    return "", ""
