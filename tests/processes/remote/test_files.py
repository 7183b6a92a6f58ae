"""Files, here and over ssh: exact, whole or absent, and never readable by more than they should."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest

from dto.remote.errors import FileMissing, FileRefused, TimedOut
from dto.remote.host import Host
from dto.remote.ssh import SshHost

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

_NAMES = ["plain", "a b'c\"", "$HOME", "-n", "é\udcff", "line\nend\n"]


@pytest.mark.parametrize("name", _NAMES)
def test_what_was_written_is_read_under_any_name(host: Host, tmp_path: Path, name: str) -> None:
    data = bytes(range(256))
    host.write(tmp_path / name, data)
    assert (tmp_path / name).read_bytes() == data
    assert host.read(tmp_path / name) == data
    assert os.listdir(tmp_path) == [name]


def test_a_written_file_is_private_unless_asked_otherwise(host: Host, tmp_path: Path) -> None:
    host.write(tmp_path / "secret", "munge")
    host.write(tmp_path / "script", "#!/bin/sh", mode=0o755)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "script").stat().st_mode & 0o777 == 0o755


def test_a_link_is_replaced_and_not_followed(host: Host, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "link").symlink_to("other")
    host.write(tmp_path / "link", "mine")
    assert (tmp_path / "other").read_text() == "other"
    assert (tmp_path / "link").read_text() == "mine"


def test_a_reader_sees_the_old_file_or_the_new_one(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100_000)
    seen: set[bytes] = set()
    writing = Thread(target=host.write, args=(path, b"b" * 100_000))
    writing.start()
    while writing.is_alive():
        seen.add(path.read_bytes())
    writing.join()
    assert seen <= {b"a" * 100_000, b"b" * 100_000}
    assert path.read_bytes() == b"b" * 100_000


def test_a_file_that_is_not_there_is_missing(host: Host, tmp_path: Path) -> None:
    with pytest.raises(FileMissing) as caught:
        host.read(tmp_path / "none")
    assert str(caught.value) == f"{host.name}: {tmp_path}/none: there is no such file or folder"
    with pytest.raises(FileMissing):
        host.get(tmp_path / "none", tmp_path / "copy")
    with pytest.raises(FileMissing):
        host.put(tmp_path / "none", tmp_path / "copy")
    with pytest.raises(FileMissing):
        host.write(tmp_path / "none" / "file", "x")
    assert os.listdir(tmp_path) == []


def test_a_message_is_one_line_whatever_the_path_holds(host: Host) -> None:
    with pytest.raises(FileMissing) as caught:
        host.read("/nonexistent/\033[2J\n\udcff")
    assert "/nonexistent/\\x1b[2J\\n\\udcff: there is no such" in str(caught.value)
    assert caught.value.path == "/nonexistent/\033[2J\n\udcff"


def test_a_folder_is_neither_read_nor_replaced(host: Host, tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="[Ii]s a (directory|folder)"):
        host.read(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileRefused, match="is a folder"):
        host.write(tmp_path / "folder", "x")
    assert os.listdir(tmp_path / "folder") == []


def test_twenty_megabytes_go_there_and_come_back(host: Host, tmp_path: Path) -> None:
    data = os.urandom(20 << 20)
    (tmp_path / "here").write_bytes(data)
    (tmp_path / "here").chmod(0o640)
    host.put(tmp_path / "here", tmp_path / "there")
    host.get(tmp_path / "there", tmp_path / "back")
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["back", "here", "there"]


def test_an_empty_file_is_a_file(host: Host, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    host.put(tmp_path / "empty", tmp_path / "there", mode=0o600)
    host.get(tmp_path / "there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_a_failed_get_leaves_what_was_there(host: Host, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    with pytest.raises(FileRefused):
        host.get(tmp_path, tmp_path / "old")
    assert (tmp_path / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["old"]


def test_a_full_disk_here_ends_a_get(host: Host, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (1 << 20))
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        host.pipe(["cat", str(tmp_path / "big")], None, full, timeout=20)
    assert host.run(["echo", "on"]).out == "on\n"


def test_a_put_that_is_cut_leaves_the_old_file(ssh: SshHost, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"n" * (64 << 20))
    (tmp_path / "old").write_text("old")
    with pytest.raises(TimedOut):
        ssh.put(tmp_path / "new", tmp_path / "old", timeout=0.1)
    assert (tmp_path / "old").read_text() == "old"


def test_a_put_of_a_file_that_shrinks_is_refused(host: Host, tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="changed on the way"):
        with open(os.devnull, "rb") as shrunk:
            host._write_from(str(tmp_path / "file"), shrunk, 5, 0o600, 20, False)
    assert os.listdir(tmp_path) == []
