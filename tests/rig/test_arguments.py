"""Arguments and names reach the script byte for byte through sbatch, or are refused in one line."""

from __future__ import annotations

import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import PROGRAMS, dto, wait_for
from tests.rig.rig import Rig

VECTORS = 300 if os.environ.get("CI") == "true" else 30
GOOD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
PIECES = [
    b"$(touch pwned)",
    b"`id`",
    b"'",
    b'"',
    b"\\",
    b"\n",
    b" ",
    b"\t",
    b"",
    b"*",
    b"~",
    b"--",
    b"-n",
    b"${HOME}",
    b"$HOME",
    b"%j",
    b"#SBATCH --nodes=9",
    b"&&",
    b";",
    b"|",
    b">x",
    b"caf\xc3\xa9",
    b"\xff\xfe",
    "日本語".encode(),
    "🚀".encode(),
    b"a=b,c",
    b"!",
    b"{{ x }}",
    b"{% raw %}",
    b"\r\n",
    b"\x1b[31m",
    b"\x01",
]


def a_vector(chance: random.Random) -> list[str]:
    arguments = []
    for _ in range(chance.randint(0, 6)):
        parts = [chance.choice(PIECES) for _ in range(chance.randint(0, 4))]
        if chance.random() < 0.3:
            parts.append(bytes(chance.randint(1, 255) for _ in range(chance.randint(1, 20))))
        arguments.append(os.fsdecode(b"".join(parts)))
    return arguments


def a_name(chance: random.Random) -> str:
    if chance.random() < 0.6:
        letters = "abcXYZ019._-"
        return "n" + "".join(chance.choice(letters) for _ in range(chance.randint(0, 30)))
    return os.fsdecode(b"x" + b"".join(chance.choice(PIECES) for _ in range(chance.randint(1, 3))))


@pytest.mark.rig
@pytest.mark.timeout(1200)
def test_fuzzed_arguments_and_names_arrive_byte_identical_or_are_refused(
    rig: Rig, tmp_path: Path
) -> None:
    chance = random.Random(2026)
    cases = [(n, a_name(chance), a_vector(chance)) for n in range(VECTORS)]

    def send(case: tuple[int, str, list[str]]) -> bool:
        number, name, arguments = case
        done = dto(
            "submit", "--run-root", tmp_path / "runs", "--name", name, PROGRAMS / "arguments.py",
            tmp_path / f"out-{number}", *arguments, env=rig.env(), cwd=tmp_path,
        )  # fmt: skip
        if GOOD_NAME.fullmatch(name):
            assert done.returncode == 0, (name, arguments, done.stderr)
            return True
        assert done.returncode == 2, (name, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return False

    with ThreadPoolExecutor(2) as pool:
        accepted = list(pool.map(send, cases))
    assert 0.3 < sum(accepted) / len(cases) < 0.95
    for (number, name, arguments), was_accepted in zip(cases, accepted, strict=True):
        out = tmp_path / f"out-{number}"
        if not was_accepted:
            assert not out.exists()
            continue
        wait_for(out.exists, timeout=600, every=0.2)
        assert out.read_bytes().split(b"\0") == [os.fsencode(a) for a in [name, *arguments]]
    assert not (tmp_path / "pwned").exists()
