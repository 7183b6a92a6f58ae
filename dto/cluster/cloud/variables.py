"""What the variables of a root are worth, as Terraform itself works them out before any plan."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dto.cluster.cloud.terraform import Terraform

_DECLARED = re.compile(r'^\s*variable\s+"?([A-Za-z_][\w-]*)"?\s*\{', re.MULTILINE)
_LINE = re.compile(r'^\s*"?([\w-]+)"? = ("(?:[^"\\]|\\.)*")\s*$')
_SOURCE = re.compile(r'source\s*=\s*"(?:[\w.-]+/)?(hashicorp/aws|nebius/nebius)"')


def provider_in(folder: Path) -> str:
    """Return aws or nebius by what a root requires; nothing for any other cloud."""
    found = _SOURCE.search(_text(folder))
    return {"hashicorp/aws": "aws", "nebius/nebius": "nebius"}[found[1]] if found else ""


def declared(folder: Path) -> list[str]:
    return list(dict.fromkeys(_DECLARED.findall(_text(folder))))


def _text(folder: Path) -> str:
    return "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.tf")))


def read_variables(terraform: Terraform, names: Collection[str]) -> dict[str, Any]:
    """Return those of the names that are declared and have a value; what nobody gave is absent."""
    wanted = [name for name in declared(terraform.folder) if name in names]
    if not wanted:
        return {}
    # in one go, for the console answers a pipe once; a value that is not known has no quotes
    parts = ", ".join(f"{name} = jsonencode(var.{name})" for name in wanted)
    return parse_console(terraform.evaluate(f"{{ {parts} }}"))


def parse_console(text: str) -> dict[str, Any]:
    """Read the console's `{ "name" = "<quoted JSON>" ... }`."""
    found = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            value = json.loads(_unquoted(match[2]))
            if value is not None:
                found[match[1]] = value
    return found


def _unquoted(quoted: str) -> str:
    """Take HCL's quotes off; `$${` and `%%{` stand for `${` and `%{`."""
    text = str(json.loads(quoted))
    return text.replace("$${", "${").replace("%%{", "%{")
