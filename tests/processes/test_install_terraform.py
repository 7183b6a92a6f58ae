"""scripts/install-terraform.sh, against a server of releases on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import platform
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

_KIND = {"x86_64": "linux_amd64", "aarch64": "linux_arm64"}.get(platform.machine(), "")
pytestmark = pytest.mark.skipif(not _KIND, reason="no Terraform for this machine is known here")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server with one release, and the release's archive."""
    folder = tmp_path / "releases" / "1.11.4"
    folder.mkdir(parents=True)
    archive = folder / f"terraform_1.11.4_{_KIND}.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("terraform", "#!/bin/sh\necho here\n")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    sums = f"{'0' * 64}  terraform_1.11.4_other.zip\n{digest}  {archive.name}\n"
    (folder / "terraform_1.11.4_SHA256SUMS").write_text(sums)
    handler = functools.partial(_Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", archive
        server.shutdown()


def _install(address: str, to: Path) -> subprocess.CompletedProcess[str]:
    to.mkdir()
    return subprocess.run(
        [REPOSITORY / "scripts" / "install-terraform.sh", to], text=True, capture_output=True,
        env={**os.environ, "TERRAFORM_RELEASES": address}, timeout=60,
    )  # fmt: skip


def test_what_was_published_is_installed(releases: tuple[str, Path], tmp_path: Path) -> None:
    done = _install(releases[0], tmp_path / "bin")
    assert done.returncode == 0, done.stderr
    said = subprocess.run([tmp_path / "bin/terraform"], text=True, capture_output=True, timeout=10)
    assert said.stdout == "here\n"


def test_an_archive_with_another_hash_is_not(releases: tuple[str, Path], tmp_path: Path) -> None:
    with releases[1].open("ab") as archive:
        archive.write(b"more")
    done = _install(releases[0], tmp_path / "bin")
    assert done.returncode == 1 and "nothing was installed" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "bin").iterdir())


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    done = _install("http://127.0.0.1:1", tmp_path / "bin")
    assert done.returncode == 1 and "cannot be had" in done.stderr.splitlines()[-1]
