"""Host keys on Nebius: the machines leave theirs in a folder that only root can read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection

from dto.cluster.inventory import DtoCluster
from dto.cluster.keys import host_key
from dto.remote.host import Host

FOLDER = ".dto/host-keys"
WAIT_SECONDS = 180.0
"""A machine publishes its keys once cloud-init has mounted the filesystem."""
_EVERY_SECONDS = 3.0
_READ = r"""
cd "$1" 2>/dev/null || exit 0
for file in *; do
  [ -f "$file" ] || continue
  while read -r line; do printf '%s %s\n' "$file" "$line"; done <"$file"
done
"""


def published_keys(head: Host, record: DtoCluster) -> dict[str, tuple[str, ...]]:
    """Return name -> host keys, as the head finds them on the shared filesystem."""
    folder = f"{record.shared.path}/{FOLDER}"
    done = head.run(["sh", "-c", _READ, "sh", folder], sudo=True)
    found: dict[str, list[str]] = {}
    for line in done.out.splitlines():
        name, _, text = line.partition(" ")
        with contextlib.suppress(ValueError):  # an odd line is no key, and so vouches for nothing
            found.setdefault(name, []).append(host_key(text))
    return {name: tuple(keys) for name, keys in found.items()}


def introduced(
    record: DtoCluster, unknown: Collection[str], head: Host, say: Callable[[str], None]
) -> DtoCluster:
    """Return the record with the keys that the named nodes have published, waiting for them.

    The head, whose own key somebody has confirmed, vouches for the nodes.
    """
    deadline, is_told = time.monotonic() + WAIT_SECONDS, False
    while True:
        keys = published_keys(head, record)
        missing = [name for name in unknown if name not in keys]
        if not missing or time.monotonic() >= deadline:
            break
        if not is_told:
            say(f"waiting for the host keys of {', '.join(missing)}")
            is_told = True
        time.sleep(min(_EVERY_SECONDS, max(0.1, deadline - time.monotonic())))
    nodes = [node for node in record.nodes if node.name in unknown and keys.get(node.name)]
    return record.with_host_keys({node.address: keys[node.name] for node in nodes})
