"""The ssh key out of AWS Secrets Manager: held by an ssh-agent of our own, never by a file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dto.errors import ClusterError, DtoError, UsageError

_SECONDS = 20.0
_MARK = "PRIVATE KEY-----"


@contextlib.contextmanager
def key_from_secret(name: str, region: str | None) -> Iterator[None]:
    """Fetch a private key and let ssh, ours and Ansible's, find it through SSH_AUTH_SOCK.

    The agent ends with us, however we end; the key is in its memory alone.
    """
    key = fetch_key(name, region)
    before = os.environ.get("SSH_AUTH_SOCK")
    with agent_with(key) as socket:
        os.environ["SSH_AUTH_SOCK"] = str(socket)
        try:
            yield
        finally:
            os.environ.pop("SSH_AUTH_SOCK", None)
            if before is not None:
                os.environ["SSH_AUTH_SOCK"] = before


def fetch_key(name: str, region: str | None) -> str:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise UsageError("--use-secrets-manager needs boto3: pip install boto3") from None
    try:
        client: Any = boto3.client("secretsmanager", region_name=region)
        answer = client.get_secret_value(SecretId=name)
    except (BotoCoreError, ClientError) as error:
        raise ClusterError(f"secret {name!r} cannot be read: {error}") from None
    return key_in(answer.get("SecretString") or "", name)


def key_in(text: str, name: str) -> str:
    """Take the key out of a secret: as it is, or the one value of a JSON object that is a key."""
    if not text.lstrip().startswith("{"):
        found = [text] if _MARK in text else []
    else:
        try:
            values = json.loads(text).values()
        except ValueError:
            values = ()
        found = [value for value in values if isinstance(value, str) and _MARK in value]
    if len(found) != 1:
        count = "more than one" if found else "no"
        raise UsageError(f"secret {name!r} holds {count} private key: store one, as it is")
    return found[0].strip() + "\n"


@contextlib.contextmanager
def agent_with(key: str) -> Iterator[Path]:
    """Run an ssh-agent that holds one key; yields its socket."""
    if not shutil.which("ssh-agent") or not shutil.which("ssh-add"):
        raise DtoError("ssh-agent is missing: install the openssh client (apt: openssh-client)")
    with tempfile.TemporaryDirectory(prefix="dto-agent-") as folder:
        socket = Path(folder) / "agent"
        with _agent(socket):
            env = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            added = subprocess.run(
                ["ssh-add", "-q", "-"], input=key, env=env, text=True, capture_output=True,
                timeout=_SECONDS,
            )  # fmt: skip
            if added.returncode:
                words = (added.stderr.strip().splitlines() or ["it is damaged"])[-1]
                raise UsageError(f"the secret's private key cannot be used: {words}")
            yield socket


@contextlib.contextmanager
def _agent(socket: Path) -> Iterator[None]:
    """Run an ssh-agent for as long as we live.

    It ends within seconds of its command, which ends with us: its input is a pipe from here. The
    kernel's signal at a parent's death would not reach it: ssh-agent is set-group-ID.
    """
    command = ["sh", "-c", 'echo "$SSH_AGENT_PID"; exec cat >/dev/null']
    with subprocess.Popen(
        ["ssh-agent", "-a", str(socket), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is ours to hear
    ) as waiting:
        assert waiting.stdout is not None
        answer = waiting.stdout.readline().strip()
        if not answer.isdigit():
            raise DtoError("ssh-agent did not start")
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(answer), signal.SIGTERM)
