"""Unpacks a folder that came with the call, beside the one in use, and turns a link to it."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import tarfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
---
module: dto_tree
short_description: Makes a folder out of an archive in one call
options:
  link: {description: The name the folder is known by., type: path, required: true}
  root: {description: Where folders named by their hash are kept., type: path, required: true}
  archive: {description: A tar.gz in base64., type: str, required: true}
"""

EXAMPLES = """
- name: Unpack scripts and examples
  dto_tree:
    root: /shared/dto/trees
    link: /shared/dto/tree
    archive: "{{ '/home/me/dto' | dto_folder_archive }}"
"""


def unpack(data: bytes, target: str) -> None:
    partial = f"{target}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial, mode=0o755)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for entry in archive.getmembers():
            place = os.path.normpath(os.path.join(partial, entry.name))
            if not place.startswith(partial + "/") or not entry.isfile():
                raise ValueError(f"{entry.name} does not belong into the folder")
            os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
            with open(place, "wb") as file:
                shutil.copyfileobj(archive.extractfile(entry), file)
            os.chmod(place, entry.mode & 0o755)
    os.rename(partial, target)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "link": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
            "archive": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    link, root = module.params["link"], module.params["root"]
    data = base64.b64decode(module.params["archive"])
    target = f"{root}/{hashlib.sha256(data).hexdigest()[:16]}"
    changed = not os.path.isdir(target) or os.path.realpath(link) != os.path.realpath(target)
    if changed and not module.check_mode:
        os.umask(0o022)
        os.makedirs(root, mode=0o755, exist_ok=True)
        if not os.path.isdir(target):
            unpack(data, target)
        beside = f"{link}.{os.getpid()}.partial"
        os.symlink(os.path.relpath(target, os.path.dirname(link)), beside)
        os.replace(beside, link)
        for name in os.listdir(root):
            if os.path.join(root, name) != target:
                shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    module.exit_json(changed=changed, path=target)


if __name__ == "__main__":
    main()
