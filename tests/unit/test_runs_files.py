"""Files that many read while one writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dto.errors import DtoError, UsageError
from dto.runs.files import (
    Journal,
    Tail,
    read_gist,
    read_json,
    read_rows,
    write_atomic,
    write_json,
)
from dto.runs.paths import create_run, find_run, list_runs
from dto.runs.requests import pending, post
from tests.helpers import cannot


def test_a_crash_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"old": True})
    program = (
        "import os, sys; from pathlib import Path; from dto.runs import files\n"
        "files.os.fsync = lambda handle: os._exit(9)\n"
        "files.write_atomic(Path(sys.argv[1]), b'x' * 100000)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60)
    assert done.returncode == 9
    assert read_json(path) == {"old": True}


def test_text_that_is_not_utf8_survives_json(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    argument = os.fsdecode(b"caf\xe9 \xff")
    write_json(path, {"args": [argument]})
    value = read_json(path)
    assert value is not None and os.fsencode(value["args"][0]) == b"caf\xe9 \xff"


def test_a_missing_or_broken_file_reads_as_nothing(tmp_path: Path) -> None:
    assert read_json(tmp_path / "absent.json") is None
    (tmp_path / "half.json").write_text('{"a": ')
    assert read_json(tmp_path / "half.json") is None


def test_a_torn_last_line_is_dropped_and_healed_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"t": 1}\n{"t": 2')
    assert read_rows(path) == [{"t": 1}]
    journal = Journal(path)
    journal.append({"t": 3})
    journal.close()
    assert read_rows(path) == [{"t": 1}, {"t": 3}]


def test_a_tail_returns_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    tail = Tail(path)
    assert tail.poll() == []
    journal = Journal(path)
    journal.append_many([{"t": 1}, {"t": 2}])
    assert tail.poll() == [{"t": 1}, {"t": 2}]
    journal.append({"t": 3})
    assert tail.poll() == [{"t": 3}]
    assert tail.poll() == []
    journal.close()


def test_the_gist_of_a_long_journal_is_its_states_and_its_end(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"kind": "state", "n": 0})
    journal.append_many({"kind": "metric", "n": n} for n in range(1000))
    journal.append({"kind": "state", "n": 1})
    journal.append_many({"kind": "metric", "n": n} for n in range(1000, 2000))
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"kind": "torn')
    rows = read_gist(path, "state", last=3)
    assert [(row["kind"], row["n"]) for row in rows] == [
        ("state", 0),
        ("state", 1),
        ("metric", 1997),
        ("metric", 1998),
        ("metric", 1999),
    ]
    assert read_gist(tmp_path / "absent", "state") == []


@settings(max_examples=60)
@given(rows=st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text()), max_size=6),
       cut=st.integers(min_value=0, max_value=400))  # fmt: skip
def test_a_journal_cut_anywhere_yields_its_first_whole_rows(
    rows: list[dict[str, object]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    journal.append_many(rows)
    journal.close()
    path.write_bytes(path.read_bytes()[:cut])
    found = read_rows(path)
    assert found == json.loads(json.dumps(rows))[: len(found)]


def test_a_run_is_private_and_found_by_id_prefix_name_path_and_latest(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", "digits")
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert run.name == "digits"
    for text in (run.id, run.id[:15], "digits", str(run.path), "latest"):
        assert find_run(tmp_path / "runs", text) == run
    assert list_runs(tmp_path / "runs") == [run]


@pytest.mark.parametrize("text", ["7", "[]", '"x"', "null", "{", "\\xff", ""])
def test_a_file_without_an_object_counts_as_absent(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    assert read_json(tmp_path / "result.json") is None


def test_a_request_without_a_time_is_passed_over(tmp_path: Path) -> None:
    run = create_run(tmp_path, "a")
    post(run, "stop")
    for name, text in (("a", "3"), ("b", '{"t": "x"}'), ("c", '{"kind": "stop"}')):
        (run.requests / f"{name}.json").write_text(text)
    assert [row["kind"] for row in pending(run)] == ["stop"]


def test_a_run_is_found_by_its_slurm_job_id(tmp_path: Path) -> None:
    first, second = create_run(tmp_path, "a"), create_run(tmp_path, "b")
    for run, job_id in ((first, "41"), (second, "42")):
        number = run.add_submission()
        write_json(run.submission(number) / "job.json", {"scheduler": "slurm", "job_id": job_id})
    assert find_run(tmp_path, "41") == first
    assert find_run(tmp_path, "42") == second


@pytest.mark.parametrize("text", ["nonsense", "2", "", "../etc"])
def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, text: str) -> None:
    create_run(tmp_path, "a")
    create_run(tmp_path, "b")
    with pytest.raises(UsageError) as caught:
        find_run(tmp_path, text)
    assert "\n" not in str(caught.value) and "dto ls" in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\nb", "$(id)", "-x", ".x", "x" * 65, "'q'"])
def test_a_job_name_that_would_trip_slurm_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="job name"):
        create_run(tmp_path / "runs", name)
    assert not (tmp_path / "runs").exists()


def test_two_claims_never_share_an_attempt(tmp_path: Path) -> None:
    run = create_run(tmp_path, "claims")
    program = "import sys; from pathlib import Path; from dto.runs.paths import Run\n"
    program += "print([Run(Path(sys.argv[1])).claim_attempt().number for _ in range(20)])"
    claimants = [
        subprocess.Popen([sys.executable, "-c", program, str(run.path)], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    numbers = [n for one in claimants for n in json.loads(one.communicate(timeout=60)[0])]
    assert sorted(numbers) == list(range(1, 61))


def test_a_run_root_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DtoError, match="--run-root") as caught:
        create_run(tmp_path / "file" / "runs", "x")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_an_error_and_leaves_no_partial_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        cannot("this machine has no /dev/full")
    (tmp_path / f".x.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "x", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_journal_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        cannot("needs root, to mount a small filesystem")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]).returncode:
        cannot("this machine does not let root mount a tmpfs")
    try:
        (place / "ballast").write_bytes(b"x" * 45_000)
        journal = Journal(place / "journal.jsonl")
        journal.append({"t": 1})
        with pytest.raises(OSError, match="No space"):
            journal.append_many({"t": 2, "text": "y" * 100} for _ in range(1000))
        (place / "ballast").unlink()
        journal.append({"t": 3})
        journal.close()
        rows = read_rows(place / "journal.jsonl")
        assert rows[0] == {"t": 1} and rows[-1] == {"t": 3}
    finally:
        subprocess.run(["umount", place], check=True)
