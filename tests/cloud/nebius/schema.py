"""Read the provider's schema from our own notation (schema/README.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "schema"
_FLAT = re.compile(r"(R|OC|O|C)(s?): (.+)")
_NESTED = re.compile(r"(\w+)(!?) \((single|list)\) (R|OC|O|C)(?: \{\})?")
_SCALARS: dict[str, Any] = {name: name for name in ("string", "number", "bool")}
TYPES = (
    _SCALARS | {f"list({t})": ["list", t] for t in _SCALARS} | {"map(string)": ["map", "string"]}
)


@dataclass
class Field:
    """An attribute: of a plain type, or a nested object or list of objects with children."""

    name: str
    flag: str
    type: Any = None
    nesting: str = ""
    sensitive: bool = False
    replaces: bool = False
    children: dict[str, Field] = field(default_factory=dict)

    @property
    def computed(self) -> bool:
        return "C" in self.flag


Fields = dict[str, Field]


def read_schemas(folder: Path = FOLDER) -> dict[tuple[str, str], Fields]:
    """Return the attributes of each (provider, resource or data) by its name."""
    found: dict[tuple[str, str], Fields] = {}
    for path in sorted(folder.glob("*.txt")):
        for line in path.read_text().splitlines():
            if match := re.fullmatch(r"(provider|resource|data) (\w+)", line):
                found[match[1], match[2]] = {}
                open_at = [found[match[1], match[2]]]
            elif line.strip():
                _add(line, open_at, f"{path.name}: {line.strip()[:60]}")
    return found


def _add(line: str, open_at: list[Fields], where: str) -> None:
    """Put the attributes of a line where its indentation says; a nested one opens a level."""
    depth = (len(line) - len(line.lstrip())) // 4
    assert 1 <= depth <= len(open_at), f"{where}: wrong indentation"
    del open_at[depth:]
    if match := _FLAT.fullmatch(line.strip()):
        for one in _flat(match[1], bool(match[2]), match[3], where):
            open_at[-1][one.name] = one
    elif match := _NESTED.fullmatch(line.strip()):
        one = Field(match[1], match[4], nesting=match[3], replaces=bool(match[2]))
        open_at[-1][one.name] = one
        open_at.append(one.children)
    else:
        raise AssertionError(f"{where}: not in the notation")


def _flat(flag: str, sensitive: bool, text: str, where: str) -> Iterator[Field]:
    for entry in text.split(", "):
        name, _, kind = entry.partition(" ")
        assert kind in TYPES, f"{where}: unknown type {kind!r}"
        plain = name.removesuffix("!")
        yield Field(plain, flag, TYPES[kind], sensitive=sensitive, replaces=name != plain)


def completed(fields: Fields, value: Any) -> Any:
    """Return an object with every attribute that it lacks as null, all the way down."""
    if not isinstance(value, dict):
        return value
    full = {name: value.get(name) for name in fields}
    for name, one in fields.items():
        if one.nesting == "list" and isinstance(full[name], list):
            full[name] = [completed(one.children, item) for item in full[name]]
        elif one.nesting:
            full[name] = completed(one.children, full[name])
    return full


def replaced_by(fields: Fields, old: Any, new: Any) -> bool:
    """Whether an attribute somewhere in here that makes the resource anew has changed."""
    if old == new or not isinstance(old, dict) or not isinstance(new, dict):
        return False
    return any(
        one.replaces or any(replaced_by(one.children, a, b) for a, b in _pairs(old, new, name))
        for name, one in fields.items()
        if old.get(name) != new.get(name)
    )


def _pairs(old: Any, new: Any, name: str) -> list[tuple[Any, Any]]:
    before, after = old.get(name), new.get(name)
    if isinstance(before, list) and isinstance(after, list):
        return list(zip(before, after, strict=False))
    return [(before, after)]
