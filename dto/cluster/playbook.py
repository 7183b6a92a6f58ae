"""Runs ansible-playbook as a child in a session of its own, and follows its events."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dto.cluster.outcome import Outcome
from dto.errors import ClusterError, DtoError

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_TICK_SECONDS = 0.5
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Play:
    """One call of ansible-playbook; `keep_open` are descriptors (the lock) that live as long."""

    playbook: Path
    inventory: Path
    log: Path
    limit: Sequence[str] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    check: bool = False
    verbose: bool = False
    keep_open: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def argv(self) -> list[str]:
        words = [sys.executable, "-m", "ansible", "playbook", "-i", str(self.inventory)]
        words += ["--limit", ",".join(self.limit)] if self.limit else []
        words += ["--check", "--diff"] if self.check else []
        words += ["-vv"] if self.verbose else []
        words += ["--extra-vars", json.dumps(dict(self.variables))] if self.variables else []
        return [*words, str(self.playbook)]


def data_folder(name: str) -> Path:
    """Return ansible/, examples/ or scripts/: beside dto/ in a checkout, in _data of a wheel."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / name, package / "_data" / name):
        if folder.is_dir() and (folder.parent != package.parent or is_checkout()):
            return folder
    raise DtoError(f"this dto came without its {name}/ folder: use a checkout of dto")


def is_checkout() -> bool:
    """Tell whether dto runs from its repository: then what is beside dto/ is dto's, too."""
    return (Path(__file__).parents[2] / "pyproject.toml").is_file()


def run_playbook(
    play: Play,
    on_event: Callable[[Mapping[str, Any]], None] = lambda event: None,
    on_tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run a playbook to its end; Ctrl-C ends it, and everything it started here, first."""
    if importlib.util.find_spec("ansible") is None:
        raise DtoError("ansible-core is not installed here: start scripts/cluster-setup.sh instead")
    outcome = Outcome()
    play.log.parent.mkdir(parents=True, exist_ok=True)
    with play.log.open("ab") as log, _started(play, log) as (child, events):
        try:
            for event in _follow(child, events, on_tick):
                outcome.take(event)
                on_event(event)
        except BaseException:
            _end(child)
            raise
        outcome.return_code = child.wait()
    if outcome.return_code and not outcome.failures and not outcome.unreachable:
        raise ClusterError(_last_words(play))
    return outcome


@contextlib.contextmanager
def _started(play: Play, log: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    reader, writer = os.pipe()
    parent = os.getpid()
    try:
        child = subprocess.Popen(
            play.argv(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=play.playbook.parent,
            env=_environment(play, writer),
            pass_fds=(writer, *play.keep_open),
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(parent),
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    os.set_blocking(reader, False)
    try:
        yield child, reader
    finally:
        os.close(reader)


def end_with_parent(parent: int) -> None:
    """Have the kernel send us SIGTERM when `parent` ends, however it ends; Ansible passes it on."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _environment(play: Play, events: int) -> dict[str, str]:
    """Ours alone: what a user has set for Ansible must not change what we do."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    home = data_folder("ansible")
    config = home / "ansible.cfg"
    return {
        **kept,
        **({"ANSIBLE_CONFIG": str(config)} if config.is_file() else {}),
        "ANSIBLE_CALLBACK_PLUGINS": str(home / "callback_plugins"),
        "ANSIBLE_CALLBACKS_ENABLED": "dto_events",
        "ANSIBLE_NOCOLOR": "1",
        **_strategy(),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_RETRY_FILES_ENABLED": "false",
        "DTO_EVENTS_FD": str(events),
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        **play.environment,
    }


def _strategy() -> dict[str, str]:
    """Keep one Python on each host for the whole run (Mitogen): no ssh and no start for a task."""
    found = importlib.util.find_spec("ansible_mitogen")
    if found is None or found.origin is None:
        return {}
    folder = Path(found.origin).parent / "plugins" / "strategy"
    return {"ANSIBLE_STRATEGY_PLUGINS": str(folder), "ANSIBLE_STRATEGY": "mitogen_linear"}


def _follow(
    child: subprocess.Popen[bytes], events: int, on_tick: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Yield events until the pipe is closed or the child has gone and left nothing in it."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while True:
            is_over = child.poll() is not None
            if not selector.select(0 if is_over else _TICK_SECONDS):
                on_tick()
                if is_over:
                    return
                continue
            piece = os.read(events, 65536)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield json.loads(line)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End Ansible and its workers: SIGTERM, which it hands to them, and in the end SIGKILL."""
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            return


def _last_words(play: Play) -> str:
    """Return why Ansible would not even begin: its own error, the last of the log."""
    lines = play.log.read_text(errors="replace").splitlines()[-40:]
    errors = [line for line in lines if line.startswith(("ERROR!", "[ERROR]"))]
    words = " ".join((errors or lines or ["it said nothing"])[-1].split())
    return f"{play.playbook.name} could not run: {words} (see {play.log})"
