"""Commands, here and over ssh: their words, streams, exit codes and deadlines."""

from __future__ import annotations

import io
import os
import shlex
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import psutil
import pytest

from dto.remote import conversation
from dto.remote.errors import ConnectionLost, RemoteError, TimedOut
from dto.remote.host import Host
from dto.remote.local import LocalHost
from dto.remote.ssh import SshHost, command_line, connect
from tests.helpers import cannot
from tests.processes.remote.sshd import serving

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

_ODD_WORDS = ["", "a b", "it's", '"$HOME"', "`id`", "*", "\\", "-n", "é\n\t", "\udcff", "!!", "#x"]


def _gone(process_id: int) -> bool:
    """Whether a process ends, given a little time to be reaped."""
    try:
        psutil.Process(process_id).wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_words_arrive_exactly_as_they_were_given(host: Host) -> None:
    result = host.run(["printf", "%s\\0", *_ODD_WORDS])
    assert result.out.split("\0")[:-1] == _ODD_WORDS
    assert result.is_ok and result.err == ""


def test_input_of_any_bytes_comes_back(host: Host) -> None:
    data = bytes(range(256)) * 100
    result = host.run(["cat"], input=data)
    assert result.out.encode("utf-8", "surrogateescape") == data


def test_without_input_a_command_reads_an_empty_stdin(host: Host) -> None:
    assert host.run(["cat"]).out == ""


def test_stderr_and_the_exit_code_are_told_apart_from_stdout(host: Host) -> None:
    result = host.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (result.code, result.out, result.err) == (7, "out\n", "err\n")
    assert not result.is_ok


def test_a_signal_is_a_code_above_128(host: Host) -> None:
    assert host.run(["sh", "-c", "kill -9 $$"]).code == 128 + signal.SIGKILL


def test_an_absent_command_is_code_127(host: Host) -> None:
    result = host.run(["no-such-program"])
    assert result.code == 127 and "no-such-program" in result.err


def test_a_folder_is_no_command_and_code_126(host: Host) -> None:
    assert host.run(["/tmp"]).code == 126


def test_codes_that_a_timeout_would_give_are_a_commands_own(host: Host) -> None:
    assert [host.run(["sh", "-c", f"exit {code}"]).code for code in (124, 137)] == [124, 137]


def test_a_command_is_a_list_of_words_without_nul(host: Host) -> None:
    for words in ("ls -l", [], ["a\0b"]):
        with pytest.raises(ValueError):
            host.run(words)


def test_a_deadline_ends_the_command_and_what_it_started(host: Host, tmp_path: Path) -> None:
    script = "sleep 600 & echo $! $$ > $0; wait"
    with pytest.raises(TimedOut) as caught:
        host.run(["sh", "-c", script, str(tmp_path / "ids")], timeout=3)
    assert caught.value.is_ended and caught.value.seconds == 3
    assert caught.value.host == host.name and "sleep 600" in caught.value.command
    assert str(caught.value).startswith(f"{host.name}: `sh -c ")
    assert "did not end within 3 s and was stopped" in str(caught.value)
    ids = [int(word) for word in (tmp_path / "ids").read_text().split()]
    assert len(ids) == 2 and all(map(_gone, ids))


def test_a_command_that_will_not_end_when_told_is_killed(host: Host, tmp_path: Path) -> None:
    script = "trap '' TERM; echo $$ > $0; while :; do sleep 600; done"
    with pytest.raises(TimedOut) as caught:
        host.run(["sh", "-c", script, str(tmp_path / "id")], timeout=3)
    assert caught.value.is_ended
    assert _gone(int((tmp_path / "id").read_text()))


def test_a_deadline_holds_for_a_command_that_never_stops_talking(host: Host) -> None:
    with open(os.devnull, "wb") as nowhere, pytest.raises(TimedOut):
        host.pipe(["yes"], None, nowhere, timeout=1)


def test_a_command_that_closed_its_output_is_waited_for(host: Host) -> None:
    assert host.run(["sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 5"]).code == 5


def test_much_goes_through_all_three_streams_at_once(host: Host) -> None:
    data = os.urandom(20 << 20)
    out = io.BytesIO()
    code, err = host.pipe(["tee", "/dev/stderr"], io.BytesIO(data), out, timeout=50)
    assert code == 0
    assert out.getvalue() == data and err == data


def test_a_command_need_not_read_its_input(host: Host) -> None:
    assert host.run(["true"], input=b"x" * (8 << 20)).is_ok


def test_a_command_that_reads_none_of_its_input_still_has_a_deadline(host: Host) -> None:
    with pytest.raises(TimedOut):
        host.run(["sleep", "600"], input=b"x" * (8 << 20), timeout=1)


def test_commands_run_side_by_side_over_one_login(ssh: SshHost) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda n: ssh.run(["sh", "-c", f"sleep 0.1; echo {n}"]).out, range(8))
    assert list(results) == [f"{n}\n" for n in range(8)]


def test_root_needs_no_sudo(host: Host) -> None:
    if os.geteuid() != 0:
        cannot("needs root")
    assert host.run(["id", "-u"], sudo=True).out == "0\n"


def test_sudo_never_asks_and_runs_the_deadline_as_root_too() -> None:
    words = shlex.split(command_line(["id", "-u"], 60, sudo=True).decode())
    assert words[:4] == ["exec", "/bin/sh", "-c", '"$@"; exit $?']
    assert words[5:] == ["sudo", "-n", "--", "timeout", "-k", "5", "60.000", "id", "-u"]


def test_a_sudo_that_wants_a_password_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] && echo "sudo: a password is required" >&2\nexit 1\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = LocalHost().run(["true"], sudo=True)
    assert (result.code, result.err) == (1, "sudo: a password is required\n")


def test_a_server_that_dies_during_a_command_is_a_clear_error(tmp_path: Path) -> None:
    with serving(tmp_path / "sshd") as server, connect(server.target()) as host:
        started = tmp_path / "started"
        script = f"touch {started}; sleep 600"

        def kill_once_started() -> None:
            deadline = time.monotonic() + 20
            while not started.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            server.kill_sessions()

        killer = Thread(target=kill_once_started)
        killer.start()
        with pytest.raises(ConnectionLost, match="the connection broke while `sh -c"):
            host.run(["sh", "-c", script], timeout=50)
        killer.join()
        with pytest.raises(ConnectionLost, match="before `true` was started"):
            host.run(["true"])


def test_a_server_that_falls_silent_does_not_outlast_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "_CONFIRM_SECONDS", 0.5)
    with serving(tmp_path / "sshd") as server, connect(server.target()) as host:
        host.run(["true"])
        frozen = server.sessions()
        for process in frozen:
            process.suspend()
        try:
            with pytest.raises(TimedOut, match="did not say that it stopped it"):
                host.run(["true"], timeout=1)
        finally:
            for process in frozen:
                process.resume()


def test_what_is_killed_with_all_around_it_has_no_exit_code(ssh: SshHost) -> None:
    script = "kill -9 $(ps -o ppid= -p $PPID)"  # the shell that would turn it into one
    with pytest.raises(RemoteError, match="was killed from outside"):
        ssh.run(["sh", "-c", script])
    assert ssh.run(["echo", "still here"]).out == "still here\n"
