"""The documents name every command, no command that is not there, and only files that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

import dto
from dto.cli.main import dto as group

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
_INVOCATION = re.compile(r"[`$;&(] ?dto ([a-z]+)((?: [^`\n|;#]*)?)")
_FLAG = re.compile(r"(?<!\S)--?[a-zA-Z][\w-]*")
_LONGEST_FILE = 300


def _commands() -> dict[str, click.Command]:
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def _tracked(repository: Path, *patterns: str) -> list[Path]:
    listing = ["git", "-C", str(repository), "ls-files", "-z", "--", *patterns]
    done = subprocess.run(listing, text=True, capture_output=True, check=True)
    return [repository / name for name in done.stdout.split("\0") if name]


def test_the_readme_names_every_command(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    assert [name for name in _commands() if f"`dto {name}" not in text] == []


def test_documents_show_only_commands_and_options_that_exist(repository: Path) -> None:
    commands, unknown = _commands(), []
    for page in _tracked(repository, "*.md"):
        for name, rest in _INVOCATION.findall(page.read_text()):
            if name not in commands:
                unknown.append(f"{page.name}: dto {name}")
                continue
            command, word = commands[name], rest.split(" ")[1:2]
            if isinstance(command, click.Group) and word:
                command = command.commands.get(word[0], command)
            options = {flag for option in command.params for flag in option.opts}
            ours = re.split(r" \S+\.py\b", rest)[0]  # what follows a script belongs to the script
            flags = [flag for flag in _FLAG.findall(ours) if flag not in options | {"--help"}]
            unknown += [f"{page.name}: dto {name} {flag}" for flag in flags]
    assert unknown == []


def test_every_command_says_what_it_is_for() -> None:
    assert [name for name, command in _commands().items() if not command.help] == []


def test_every_relative_link_leads_to_a_file(repository: Path) -> None:
    broken = [
        f"{page.relative_to(repository)}: {target}"
        for page in _tracked(repository, "*.md")
        for target in _LINK.findall(page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_script_that_the_readme_names_exists(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    named = set(re.findall(r"\b((?:scripts|examples|benchmarks)/[\w./-]+\.(?:py|sh|md))", text))
    assert [name for name in sorted(named) if not (repository / name).exists()] == []


def test_the_changelog_tells_of_this_version(repository: Path) -> None:
    assert f"\n## {dto.__version__} " in (repository / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("pattern", ["*.py", "*.sh"])
def test_no_file_is_too_long_to_read_in_one_sitting(repository: Path, pattern: str) -> None:
    lengths = {
        str(path.relative_to(repository)): path.read_text().count("\n")
        for path in _tracked(repository, pattern)
        if path.exists()
    }
    assert {name: lines for name, lines in lengths.items() if lines >= _LONGEST_FILE} == {}
