"""A place where commands run and files lie, here or over ssh."""

from __future__ import annotations

import io
import math
import os
import secrets
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

from dto.remote.errors import FileMissing, FileRefused

KILL_AFTER_SECONDS = 5  # what is told to end and does not is killed this much later
_MOVE_SECONDS = 3600.0

_SHORT = 45
_SHELL = ("env", "LC_ALL=C", "sh", "-c")
_READ = 'exec cat < "$1"'
# Beside and renamed: a reader sees the old file or the new one; `set -C` makes `>` refuse a file
# or a link that somebody laid there. The size tells a whole copy from a broken connection.
_WRITE = f"""
umask 077; set -Ce
path=$1 partial=$2 mode=$3 size=$4
if [ -d "$path" ]; then echo "it is a folder" >&2; exit 1; fi
trap 'rm -f "$partial"' 0; trap 'exit 1' 1 2 15
cat > "$partial"
[ "$(($(wc -c < "$partial")))" = "$size" ] || exit {_SHORT}
chmod "$mode" "$partial"; sync "$partial"; mv -f "$partial" "$path"
"""

AnyHost = TypeVar("AnyHost", bound="Host")


@dataclass(frozen=True)
class Result:
    """How a command ended; a signal is 128 and its number, as a shell has it."""

    code: int
    out: str
    err: str

    @property
    def is_ok(self) -> bool:
        return self.code == 0


class Host(ABC):
    """Commands and files of one machine. Every method raises RemoteError's children."""

    name: str

    @abstractmethod
    def pipe(
        self,
        argv: Sequence[str],
        source: BinaryIO | None,
        sink: BinaryIO,
        *,
        timeout: float,
        sudo: bool = False,
    ) -> tuple[int, bytes]:
        """Run a command from one stream to another; its exit code and what it said on stderr."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; a second call does nothing."""

    def __enter__(self: AnyHost) -> AnyHost:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,
        timeout: float = 60,
        sudo: bool = False,
    ) -> Result:
        """Run a command as these exact words: no shell reads them. stdin is empty, or `input`.

        Past `timeout` the command is ended, there too, and TimedOut is raised. `sudo` never asks
        for a password: without the right to, the result is sudo's own code and words.
        """
        data = input.encode("utf-8", "surrogateescape") if isinstance(input, str) else input
        out = io.BytesIO()
        source = io.BytesIO(data) if data else None
        code, err = self.pipe(argv, source, out, timeout=timeout, sudo=sudo)
        return Result(code, _text(out.getvalue()), _text(err))

    def read(self, path: str | Path, *, timeout: float = 60, sudo: bool = False) -> bytes:
        """The content of a file; FileMissing where there is none."""
        content = io.BytesIO()
        self._read_into(str(path), content, timeout, sudo)
        return content.getvalue()

    def write(
        self,
        path: str | Path,
        data: str | bytes,
        *,
        mode: int = 0o600,
        timeout: float = 60,
        sudo: bool = False,
    ) -> None:
        """Replace a file as a whole; at no moment can others read what `mode` keeps from them."""
        content = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        self._write_from(str(path), io.BytesIO(content), len(content), mode, timeout, sudo)

    def get(self, remote: str | Path, local: str | Path, *, timeout: float = _MOVE_SECONDS) -> None:
        """Fetch a file, for this user only: what lies at `local` is replaced as a whole or kept."""
        target = Path(local)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as sink:
                self._read_into(str(remote), sink, timeout, False)
            os.replace(partial, target)
        except OSError as error:
            raise FileRefused("here", str(local), error.strerror or str(error)) from None
        finally:
            partial.unlink(missing_ok=True)

    def put(
        self,
        local: str | Path,
        remote: str | Path,
        *,
        mode: int | None = None,
        timeout: float = _MOVE_SECONDS,
    ) -> None:
        """Send a file, with its own permissions if `mode` gives no others."""
        try:
            with Path(local).open("rb") as source:
                state = os.fstat(source.fileno())
                bits = state.st_mode & 0o777 if mode is None else mode
                self._write_from(str(remote), source, state.st_size, bits, timeout, False)
        except FileNotFoundError:
            raise FileMissing("here", str(local), "there is no such file") from None
        except OSError as error:
            raise FileRefused("here", str(local), error.strerror or str(error)) from None

    def _read_into(self, path: str, sink: BinaryIO, timeout: float, sudo: bool) -> None:
        code, err = self.pipe([*_SHELL, _READ, "sh", path], None, sink, timeout=timeout, sudo=sudo)
        if code:
            raise self._refusal(path, code, err)

    def _write_from(
        self, path: str, source: BinaryIO, size: int, mode: int, timeout: float, sudo: bool
    ) -> None:
        folder, name = os.path.split(path)
        partial = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(6)}.partial")
        words = [*_SHELL, _WRITE, "sh", plain(path), plain(partial), f"{mode:o}", str(size)]
        code, err = self.pipe(words, source, io.BytesIO(), timeout=timeout, sudo=sudo)
        if code == _SHORT:
            raise FileRefused(self.name, path, f"it changed on the way: not {size} bytes arrived")
        if code:
            raise self._refusal(path, code, err)

    def _refusal(self, path: str, code: int, err: bytes) -> FileRefused:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1].rpartition(": ")[2] if lines else f"exit code {code}"
        if reason.startswith(("No such file", "Directory nonexistent")):
            return FileMissing(self.name, path, "there is no such file or folder")
        return FileRefused(self.name, path, reason)


def plain(path: str) -> str:
    """A path that no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def checked(argv: Sequence[str], timeout: float) -> list[str]:
    """The words of a command, if they can be one."""
    assert timeout > 0 and not math.isinf(timeout), "a command needs a deadline"
    if isinstance(argv, str) or not argv:
        raise ValueError(f"a command is a list of words, not {argv!r}")
    if any("\0" in word for word in argv):
        raise ValueError("no word of a command can hold a NUL byte")
    return list(argv)


def with_deadline(argv: Sequence[str], timeout: float, *, sudo: bool) -> list[str]:
    """The words that run a command, as root if so asked, and end it at its time whatever happens
    to whoever waits for it."""
    words = ["timeout", "-k", str(KILL_AFTER_SECONDS), f"{timeout:.3f}", *argv]
    return ["sudo", "-n", "--", *words] if sudo else words


def was_cut(code: int, deadline: float) -> bool:
    """Whether `with_deadline` ended the command, by its exit code and the time."""
    return code in (124, 137, 143) and time.monotonic() >= deadline


def brief(argv: Sequence[str]) -> str:
    """A command as a message shows it: one line, not all of a long one."""
    line = " ".join(shlex.join(argv).split())
    return line if len(line) <= 100 else f"{line[:97]}..."


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
