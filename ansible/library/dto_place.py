"""Gives a user a working folder with examples and a link to it; runs as that user."""

from __future__ import annotations

import os
import pwd
import shutil

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
---
module: dto_place
short_description: Copies examples into a user's folder, and links to it from the user's home
description:
  - What is there already stays as it is, whatever it is.
options:
  work: {description: The user's working folder., type: path, required: true}
  link: {description: The name of the link in the home., type: str, required: true}
  tree: {description: Where examples/ and scripts/ come from., type: path}
"""

EXAMPLES = """
- name: Give alice her place
  dto_place:
    work: /shared/work/alice
    link: dto
    tree: /shared/dto/tree
  become_user: alice
"""

SCRIPTS = ("submit_job.sh", "slurm_status.sh")


def wanted(tree: str) -> list:
    """Return what a user gets of a tree, relative to it."""
    names = [f"scripts/{name}" for name in SCRIPTS]
    for folder, inner, files in os.walk(f"{tree}/examples"):
        inner.sort()
        names += [os.path.relpath(f"{folder}/{name}", tree) for name in sorted(files)]
    return [name for name in names if os.path.isfile(f"{tree}/{name}")]


def give(work: str, tree: str, is_check: bool) -> list:
    """Copy what is absent; a copy that was cut off is not there under its name."""
    given = []
    for name in wanted(tree):
        place = f"{work}/{name}"
        if os.path.lexists(place):
            continue
        given.append(name)
        if not is_check:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copy(f"{tree}/{name}", f"{place}.partial")
            os.replace(f"{place}.partial", place)
    return given


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "work": {"type": "path", "required": True},
            "link": {"type": "str", "required": True},
            "tree": {"type": "path"},
        },
        supports_check_mode=True,
    )
    work, tree = module.params["work"], module.params["tree"]
    os.umask(0o027)
    given = give(work, tree, module.check_mode) if tree else []
    link = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, module.params["link"])
    must_link = not os.path.lexists(link)
    if must_link and not module.check_mode:
        os.symlink(work, link)
    module.exit_json(changed=bool(given or must_link), given=given, linked=must_link)


if __name__ == "__main__":
    main()
