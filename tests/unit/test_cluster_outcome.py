"""A real ansible-playbook on this machine: what its events, counts and failures become."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from dto.cluster.outcome import Outcome, fold
from dto.cluster.playbook import Play, run_playbook
from dto.cluster.progress import Progress
from dto.errors import ClusterError
from tests.helpers import wait_for

HOSTS = """
all:
  vars: {ansible_python_interpreter: %s}
  hosts:
    here: {ansible_connection: local}
    other: {ansible_connection: local}
"""


@pytest.fixture
def play(tmp_path: Path) -> Any:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(HOSTS % sys.executable)

    def make(text: str, name: str = "site.yml", **more: Any) -> Play:
        playbook = tmp_path / name
        body = textwrap.dedent(text)
        playbook.write_text(f"- hosts: all\n  gather_facts: false\n{textwrap.indent(body, '  ')}")
        return Play(playbook, inventory, tmp_path / "setup.log", **more)

    return make


def test_changes_are_counted_for_each_host_and_told_as_they_happen(play: Any) -> None:
    seen: list[Any] = []
    outcome = run_playbook(
        play(
            """
            tasks:
              - {name: Touch, ansible.builtin.command: "true", when: inventory_hostname == "here"}
              - {name: Speak, ansible.builtin.debug: {msg: "{{ item }} GB/s"}, loop: [42]}
            """
        ),
        seen.append,
    )
    assert outcome.is_fine
    assert outcome.changed == {"here": 1, "other": 0}
    assert outcome.changed_tasks == {"here": ["Touch"]}
    assert outcome.said == ["42 GB/s"]
    assert [event["event"] for event in seen][-1] == "end"


def test_a_failed_command_is_told_by_its_last_words(play: Any) -> None:
    script = "echo 'E: first' >&2; echo 'E: no space left' >&2; exit 3"
    outcome = run_playbook(
        play(f'tasks: [{{name: Install slurm, ansible.builtin.shell: "{script}"}}]', limit=["here"])
    )
    (failure,) = outcome.real_failures()
    assert str(failure) == "here: Install slurm: exit code 3: E: no space left"
    assert not failure.is_validate and not outcome.is_fine
    assert list(outcome.hosts) == ["here"]


def test_a_failed_item_of_a_loop_is_named(play: Any) -> None:
    task = (
        "tasks: [{name: Check, ansible.builtin.assert: "
        "{that: item == 'a', fail_msg: '{{ item }} is wrong'}, loop: [a, b]}]"
    )
    outcome = run_playbook(play(task, limit=["here"]))
    (failure,) = outcome.real_failures()
    assert failure.message == "b: b is wrong"


def test_what_validate_refuses_is_told_apart(play: Any) -> None:
    task = "tasks: [{name: Check, ansible.builtin.fail: {msg: the clocks differ}}]"
    outcome = run_playbook(play(task, "validate.yml", limit=["here"]))
    (failure,) = outcome.real_failures()
    assert failure.is_validate and failure.message == "the clocks differ"


def test_a_rescued_failure_is_none(play: Any) -> None:
    outcome = run_playbook(
        play(
            """
            tasks:
              - block: [{ansible.builtin.command: "false"}]
                rescue: [{ansible.builtin.command: "true"}]
            """
        )
    )
    assert outcome.failures and outcome.is_fine


def test_a_secret_stays_out_of_events_and_log(play: Any, tmp_path: Path) -> None:
    seen: list[Any] = []
    task = "tasks: [{ansible.builtin.shell: 'echo $KEY; false', no_log: true}]"
    job = play(task, limit=["here"], environment={"KEY": "hunter2"})
    outcome = run_playbook(job, seen.append)
    assert "hidden" in outcome.real_failures()[0].message
    assert "hunter2" not in str(seen) + job.log.read_text()


def test_an_unreachable_host_that_does_not_matter_is_no_trouble(play: Any) -> None:
    text = """
        vars: {ansible_connection: ssh, ansible_port: 1, ansible_host: 127.0.0.1}
        tasks:
          - name: Tell the others
            ansible.builtin.command: "true"
            delegate_to: "{{ item }}"
            loop: [other]
            ignore_unreachable: true
          - {name: Go on, ansible.builtin.debug: {msg: done}}
    """
    outcome = run_playbook(play(text, limit=["here"]))
    assert outcome.is_fine and outcome.said == ["done"]


def test_an_unreachable_host_is_left_out_and_the_others_go_on(play: Any) -> None:
    job = play("tasks: [{ansible.builtin.command: 'true'}]")
    text = job.inventory.read_text()
    ssh = "other: {ansible_host: 127.0.0.1, ansible_port: 1, ansible_connection: ssh}"
    job.inventory.write_text(text.replace("other: {ansible_connection: local}", ssh))
    outcome = run_playbook(job)
    assert list(outcome.unreachable) == ["other"]
    assert outcome.unreachable["other"].endswith("Connection refused")
    assert outcome.changed["here"] == 1 and not outcome.is_fine


def test_a_playbook_that_cannot_begin_is_one_line(play: Any) -> None:
    job = play("tasks: [{no.such.module: {}}]")
    with pytest.raises(ClusterError) as caught:
        run_playbook(job)
    assert "no.such.module" in str(caught.value) and "\n" not in str(caught.value)


def test_a_dry_run_changes_nothing(play: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    task = f"tasks: [{{ansible.builtin.copy: {{content: x, dest: {made}}}}}]"
    outcome = run_playbook(play(task, check=True, limit=["here"]))
    assert outcome.changed == {"here": 1} and not made.exists()


def test_what_the_user_set_for_ansible_does_not_matter(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "no-such-callback")
    assert run_playbook(play("tasks: []")).is_fine


DRIVER = """
import sys
from pathlib import Path
from dto.cluster.playbook import Play, run_playbook
run_playbook(Play(*map(Path, sys.argv[1:4]), keep_open=[int(sys.argv[4])]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ansible_ends_with_the_program_that_started_it(
    play: Any, tmp_path: Path, number: int
) -> None:
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 100"
    job = play(f'tasks: [{{ansible.builtin.shell: "{script}"}}]', limit=["here"])
    # the read end of a pipe whose other end the playbook holds sees when all of it has gone
    gone, held = os.pipe()
    argv = [job.playbook, job.inventory, job.log, held]
    one_host = job.inventory.read_text().replace("    other: {ansible_connection: local}\n", "")
    job.inventory.write_text(one_host)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, argv)],
        pass_fds=[held], start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(held)
    wait_for(pid_file.exists, 60)
    os.killpg(driver.pid, number)
    assert driver.wait(60) != 0
    with os.fdopen(gone, "rb") as end:
        assert end.read() == b""


def event(kind: str, role: str = "", task: str = "", **more: Any) -> dict[str, Any]:
    return {"event": kind, "role": role, "task": task, "name": "play", **more}


def test_progress_is_one_line_a_stage() -> None:
    now = iter(range(0, 1000, 5))
    out = io.StringIO()
    progress = Progress(out, lambda: next(now))
    for role in ("common", "common", "munge"):
        progress.take(event("task", role, "x"))
    progress.take(event("changed", "munge", "x"))
    progress.take(event("end"))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["common", "munge"]
    assert lines[1].endswith("1 changed")


def test_an_outcome_before_the_recap_keeps_its_failures() -> None:
    failed = event("failed", task="t", host="a", path="/x/site.yml:3", result={"msg": "no"})
    assert [str(found) for found in fold([failed]).real_failures()] == ["a: t: no"]
    assert Outcome().real_failures() == []
