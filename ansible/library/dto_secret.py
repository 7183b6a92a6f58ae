"""Writes a secret: from memory into its file, whole or not at all, never shown and never staged."""

from __future__ import annotations

import base64
import contextlib
import grp
import os
import pwd

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
---
module: dto_secret
short_description: Writes a secret without leaving a copy anywhere
description:
  - M(ansible.builtin.copy) stages its content in a file on the operator's machine; this one
    takes it through the connection. Made on the host with O(random_bytes), it never travels.
options:
  path: {description: The file., type: path, required: true}
  content: {description: What it holds, in base64., type: str}
  random_bytes: {description: Make it here, of so many random bytes., type: int}
  once:
    description: With O(random_bytes), a file that says it was made; with it, the secret stays.
    type: path
  owner: {description: Its owner., type: str, default: root}
  group: {description: Its group., type: str, default: root}
  mode: {description: Its mode in octal., type: str, default: "0400"}
"""

EXAMPLES = """
- name: Make the key
  dto_secret:
    path: /etc/munge/munge.key
    random_bytes: 1024
    once: /etc/dto/munge.made
    owner: munge
    group: munge
"""


def read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_whole(path: str, data: bytes, mode: int, uid: int, gid: int) -> None:
    """Write beside and rename; the file beside is never readable by others."""
    partial = f"{path}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)
    os.replace(partial, path)


def is_owned(path: str, mode: int, uid: int, gid: int) -> bool:
    found = os.lstat(path)
    return (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (mode, uid, gid)


def account(owner: str, group: str) -> tuple[int, int] | None:
    """Return uid and gid; None while the package that makes them is not installed."""
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def wanted(params: dict, now: bytes | None) -> bytes:
    """Return what the file shall hold: what is there already, where nothing is to be made."""
    if params["content"] is not None:
        return base64.b64decode(params["content"], validate=True)
    is_made = now and (not params["once"] or os.path.exists(params["once"]))
    return now if now and is_made else os.urandom(params["random_bytes"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "no_log": True},
            "random_bytes": {"type": "int"},
            "once": {"type": "path"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "mode": {"type": "str", "default": "0400"},
        },
        required_one_of=[("content", "random_bytes")],
        mutually_exclusive=[("content", "random_bytes")],
        supports_check_mode=True,
    )
    params = module.params
    path, mode, once = params["path"], int(params["mode"], 8), params["once"]
    ids = account(params["owner"], params["group"])
    if ids is None and module.check_mode:
        module.exit_json(changed=True)
    if ids is None:
        module.fail_json(msg=f"no user {params['owner']} or group {params['group']} for {path}")
    now = read(path)
    data = wanted(params, now)
    changed = data != now or not is_owned(path, mode, *ids)
    if changed and not module.check_mode:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        write_whole(path, data, mode, *ids)
    if once and not os.path.exists(once):
        changed = True
        if not module.check_mode:
            os.makedirs(os.path.dirname(once), mode=0o755, exist_ok=True)
            write_whole(once, f"{path} was made for this cluster\n".encode(), 0o644, 0, 0)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
