"""What the operator's machine keeps of each cluster: the record, host keys, logs and a lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dto.cluster import keys, words
from dto.cluster.inventory import DtoCluster
from dto.cluster.sources import load_record
from dto.errors import ClusterError, ConfigError
from dto.runs.files import write_atomic

HEAD_RECORD = Path("/etc/dto/record.yaml")
"""The record that setup leaves on a cluster's head."""
HOW_TO_GET_ONE = "set one up with scripts/cluster-setup.sh, or run this on a cluster's head"


def clusters_folder(env: Mapping[str, str]) -> Path:
    """Return where the clusters' folders lie; as XDG demands, a relative path does not count."""
    base = env.get("XDG_STATE_HOME") or ""
    if not base.startswith("/"):
        base = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return Path(base) / "dto" / "clusters"


@dataclass(frozen=True)
class ClusterState:
    """One cluster's folder on this machine, 0700."""

    name: str
    folder: Path

    @property
    def record_path(self) -> Path:
        """The record as last applied."""
        return self.folder / "record.yaml"

    @property
    def head_record_path(self) -> Path:
        """The same as the head shall keep it, for Ansible to copy there."""
        return self.folder / "head-record.yaml"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def inventory_path(self) -> Path:
        return self.folder / "inventory.json"

    @property
    def log_path(self) -> Path:
        return self.folder / "setup.log"

    @property
    def summary_path(self) -> Path:
        return self.folder / "cluster_summary.txt"

    @property
    def lock_path(self) -> Path:
        return self.folder / "lock"

    def create(self) -> None:
        """Make the folder, for its owner alone."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chmod(self.folder, 0o700)
        except OSError as error:
            raise ConfigError(f"cannot use {self.folder}: {error.strerror}") from None

    def load(self) -> DtoCluster | None:
        """Return the record as last applied, or None where nothing was yet."""
        return load_record(self.record_path) if self.record_path.exists() else None

    def save(self, record: DtoCluster) -> bool:
        """Keep a record and its host keys; say whether the record changed."""
        self.create()
        keys.write_known_hosts(self.known_hosts, record)
        _write(self.head_record_path, record.seen_from_head().to_yaml())
        return _write(self.record_path, record.to_yaml())

    def remove_host(self, record: DtoCluster, name: str) -> DtoCluster:
        """Keep the record without a node, whose host keys are forgotten; return it."""
        gone = record.node(name)
        smaller = record.without_node(name)
        keys.forget_hosts(self.known_hosts, gone.addresses, record.ssh.port)
        self.save(smaller)
        return smaller

    @contextlib.contextmanager
    def lock(self, what: str = "setup") -> Iterator[int]:
        """Hold the cluster's lock; yields its descriptor, for children that must outlive us.

        Raises:
            ClusterError: somebody else holds it; the message says who, and since when.
        """
        self.create()
        handle = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ClusterError(self._who_holds(handle)) from None
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            os.ftruncate(handle, 0)
            line = f"{what}\t{os.getpid()}\t{socket.gethostname()}\t{since}\n"
            os.pwrite(handle, line.encode(), 0)
            yield handle
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def _who_holds(self, handle: int) -> str:
        parts = os.pread(handle, 4096, 0).decode("utf-8", "replace").rstrip("\n").split("\t")
        if len(parts) != 4:
            return f"another command is changing cluster {self.name}; try again when it has ended"
        what, pid, host, since = parts
        text = f"a {what} of cluster {self.name} is running: pid {pid} on {host} since {since}"
        return f"{text}; wait for it, or stop it first"


def _write(path: Path, text: str) -> bool:
    """Write a private file whole; say whether it was another before."""
    if path.exists() and path.read_text("utf-8") == text:
        return False
    write_atomic(path, text)
    os.chmod(path, 0o600)
    return True


@dataclass(frozen=True)
class OpenCluster:
    """A cluster that exists, as this machine knows it."""

    state: ClusterState
    record: DtoCluster
    is_head: bool
    """Nothing is kept here, but this machine is the cluster's head."""


def cluster_state(name: str, env: Mapping[str, str]) -> ClusterState:
    """Return the place of a cluster's state; nothing is made or read."""
    try:
        words.cluster_name(name)
    except ValueError as error:
        raise ConfigError(f"cluster name: {error}") from None
    return ClusterState(name, clusters_folder(env) / name)


def known_clusters(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the clusters that were set up from here."""
    try:
        folders = sorted(clusters_folder(env).iterdir())
    except OSError:
        return ()
    return tuple(folder.name for folder in folders if (folder / "record.yaml").is_file())


def open_cluster(
    name: str | None, env: Mapping[str, str], head_record: Path = HEAD_RECORD
) -> OpenCluster:
    """Return the named cluster, else the only one, else the one that this machine heads."""
    names = known_clusters(env)
    wanted = name or (names[0] if len(names) == 1 else None)
    if wanted is not None and wanted in names:
        state = cluster_state(wanted, env)
        record = state.load()
        assert record is not None
        return OpenCluster(state, record, is_head=False)
    if head := _own(head_record):
        if name in (None, head.name) and (name or not names):
            return OpenCluster(cluster_state(head.name, env), head, is_head=True)
    if names:
        which = f"no cluster {name!r} here" if name else "which cluster?"
        raise ConfigError(f"{which}; --cluster-name takes one of: {', '.join(names)}")
    unknown = f"no cluster {name!r} is known here" if name else "no cluster is known here"
    raise ClusterError(f"{unknown}; {HOW_TO_GET_ONE}")


def _own(path: Path) -> DtoCluster | None:
    """Return the record that setup left on this machine, if it is a head and we may read it."""
    try:
        if not path.is_file():
            return None
        path.open("rb").close()
    except PermissionError:
        raise ClusterError(f"only root may read {path}; use sudo") from None
    return load_record(path).seen_from_head()
