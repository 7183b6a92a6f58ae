"""Builds a Python environment once for each set of inputs, beside the one that is in use."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
---
module: dto_environment
short_description: Builds a Python environment in a folder named by the hash of what went into it
description:
  - O(root)/<hash> is a virtual environment. Its stamp is written last, so one without it was cut
    off, and is built again. O(link) is turned to it by a rename.
options:
  root: {description: Where environments are built., type: path, required: true}
  python: {description: The Python to build with., type: path, required: true}
  requirements: {description: What pip installs., type: list, elements: str, default: []}
  wheel: {description: A wheel that is installed last., type: path}
  without: {description: Its needs that are left out., type: list, elements: str, default: []}
  extras: {description: "With O(without), extras of it.", type: list, elements: str, default: []}
  layers:
    description: Environments whose packages are seen in this one.
    type: list
    elements: path
    default: []
  wheels: {description: A folder of wheels; nothing is then downloaded., type: path}
  index: {description: An index to ask before PyPI., type: str}
  check_import: {description: A statement that must work in the end., type: str}
  link: {description: A link that shall point to the environment., type: path}
  keep: {description: How many environments to keep beside this one., type: int, default: 2}
  log: {description: Where pip's words go., type: path, default: /var/log/dto/environment.log}
  lock_seconds: {description: How long to wait for another build., type: int, default: 1800}
"""

EXAMPLES = """
- name: Install dto
  dto_environment:
    root: /shared/dto/venvs
    python: /usr/bin/python3
    wheel: /shared/dto/wheels/dto-0.1.0-py3-none-any.whl
    link: /shared/dto/venv
"""

STAMP = ".complete"
LAYERS = "dto-layers.pth"


class Problem(Exception):
    """What went wrong, in words for the operator."""


def file_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def key(inputs: dict) -> str:
    """Return the name of an environment: equal inputs, equal name."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def offered(folder: str | None, requirements: list) -> list:
    """Return the wheels of a folder that are named like a requirement: a new one is a new input."""
    if not folder:
        return []
    names = {normal(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]) for text in requirements}
    return sorted(
        name for name in os.listdir(folder)
        if name.endswith(".whl") and normal(name.split("-")[0]) in names
    )  # fmt: skip


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(metadata: str, without: list, extras: list) -> list:
    """Return the requirements in a wheel's METADATA, with some extras and without some names."""
    lines = (line[15:] for line in metadata.splitlines() if line.startswith("Requires-Dist: "))
    names = "|".join(map(re.escape, extras)) or "^"
    asked = re.compile(rf"""\s*(?:;|and)\s*extra == ['"](?:{names})['"]\s*$""")
    plain = (asked.sub("", line).strip() for line in lines)
    found = [text for text in plain if "extra ==" not in text]
    left_out = {normal(name) for name in without}
    return [text for text in found if normal(re.match(r"[\w.-]+", text)[0]) not in left_out]


def wheel_needs(wheel: str, without: list, extras: list) -> list:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return needs(archive.read(name).decode(), without, extras)


def complaint(output: str) -> str:
    """Return pip's own error lines, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line[6:].strip() for line in lines if line.startswith("ERROR:")]
    return " | ".join(errors[-2:] or lines[-1:] or ["it said nothing"])


def packages_of(environment: str) -> str:
    """Return the folder of an environment's packages."""
    return next(str(path) for path in sorted(Path(environment).glob("lib/python*/site-packages")))


class Builder:
    """One build: where, and in which words it is told to a log."""

    def __init__(self, params: dict, target: str) -> None:
        self.params = params
        self.target = target
        self.python = f"{target}/bin/python"

    def run(self, argv: list, what: str) -> None:
        env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "LC_ALL": "C.UTF-8"}
        # torch for GPUs is gigabytes: too much for a /tmp in memory, and never asked for again.
        env.update(TMPDIR="/var/tmp", PIP_NO_CACHE_DIR="1")
        env["PIP_ROOT_USER_ACTION"] = "ignore"  # Ubuntu 22.04's pip does not know it as an option
        env.pop("PYTHONPATH", None)
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/",
            stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        os.makedirs(os.path.dirname(self.params["log"]), mode=0o755, exist_ok=True)
        with open(self.params["log"], "a") as log:
            log.write(f"{time.strftime('%FT%TZ', time.gmtime())} {' '.join(argv)}\n{done.stdout}\n")
        if done.returncode:
            raise Problem(f"{what}: {complaint(done.stdout)} (see {self.params['log']})")

    def pip(self, words: list, what: str) -> None:
        index = []
        if self.params["wheels"]:
            index = ["--no-index", "--find-links", self.params["wheels"]]
        elif self.params["index"]:
            pypi = "https://pypi.org/simple"
            index = ["--index-url", self.params["index"], "--extra-index-url", pypi]
        argv = [self.python, "-m", "pip", "install", "-q", "--no-input"]
        self.run([*argv, *index, *words], what)

    def build(self) -> None:
        shutil.rmtree(self.target, ignore_errors=True)
        os.makedirs(os.path.dirname(self.target), mode=0o755, exist_ok=True)
        made = "a virtual environment could not be made"
        self.run([self.params["python"], "-m", "venv", self.target], made)
        if self.params["layers"]:
            lines = [packages_of(layer) for layer in self.params["layers"]]
            place = Path(packages_of(self.target)) / LAYERS
            place.write_text("".join(f"{line}\n" for line in lines))
        if self.params["requirements"]:
            names = " ".join(os.path.basename(text) for text in self.params["requirements"])
            self.pip(self.params["requirements"], f"pip could not install {names}")
        if self.params["wheel"]:
            self.add_wheel(self.params["wheel"], self.params["without"])
        if self.params["check_import"]:
            check = self.params["check_import"]
            self.run([self.python, "-c", check], f"`{check}` does not work")
        os.sync()
        (Path(self.target) / STAMP).write_text("")

    def add_wheel(self, wheel: str, without: list) -> None:
        name = os.path.basename(wheel)
        if without:
            asked = wheel_needs(wheel, without, self.params["extras"])
            self.pip(asked, f"pip could not install what {name} needs")
        self.pip([*(["--no-deps"] if without else []), wheel], f"pip could not install {name}")


def turn(link: str, target: str) -> None:
    """Point a link elsewhere in one step."""
    beside = f"{link}.{os.getpid()}.partial"
    os.symlink(os.path.relpath(target, os.path.dirname(link)), beside)
    os.replace(beside, link)


def remove_unfinished(root: str) -> None:
    """Remove what was cut off; nobody builds here while we hold the lock."""
    for entry in os.scandir(root):
        if not os.path.exists(f"{entry.path}/{STAMP}"):
            shutil.rmtree(entry.path, ignore_errors=True)


def remove_old(root: str, target: str, keep: int, layers: list) -> None:
    """Remove all environments but the newest few, and layers that none of these stands on."""
    others = [entry.path for entry in os.scandir(root) if entry.path != target]
    others.sort(key=lambda path: os.stat(f"{path}/{STAMP}").st_mtime, reverse=True)
    for path in others[keep:]:
        shutil.rmtree(path, ignore_errors=True)
    used = "".join(path.read_text() for path in Path(root).glob(f"*/lib/*/site-packages/{LAYERS}"))
    for shelf in {os.path.dirname(layer) for layer in layers}:
        for entry in os.scandir(shelf):
            if f"{entry.path}/" not in used:
                shutil.rmtree(entry.path, ignore_errors=True)


@contextlib.contextmanager
def locked(root: str, seconds: int):
    """Let one build go on at a time; the lock is on a local disk and ends with its process."""
    name = hashlib.sha256(root.encode()).hexdigest()[:16]
    with open(f"/run/lock/dto-environment-{name}", "w") as file:
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Problem("another build goes on: wait for it, or end it") from None
                time.sleep(1)
        yield


def version_of(python: str) -> str:
    text = "import platform as p; print(p.python_version(), p.machine())"
    try:
        done = subprocess.run([python, "-c", text], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Problem(f"{python} does not run: {error}") from None
    return done.stdout.strip()


def inputs_of(params: dict) -> dict:
    wheel = params["wheel"]
    return {
        "python": f"{params['python']} {version_of(params['python'])}",
        "requirements": params["requirements"],
        "offered": offered(params["wheels"], params["requirements"]),
        "wheel": file_hash(wheel) if wheel else "",
        "without": sorted(params["without"]),
        **({"extras": sorted(params["extras"])} if params["extras"] else {}),
        "layers": params["layers"],
        "index": "" if params["wheels"] else params["index"] or "",
    }


def ensure(params: dict, is_check: bool) -> dict:
    target = f"{params['root']}/{key(inputs_of(params))}"
    link = params["link"]
    is_built = os.path.exists(f"{target}/{STAMP}")
    is_turned = not link or os.path.realpath(link) == os.path.realpath(target)
    found = {"changed": not (is_built and is_turned), "path": target, "was_built": is_built}
    if is_check or not found["changed"]:
        return found
    os.umask(0o022)
    with locked(params["root"], params["lock_seconds"]):
        if not os.path.exists(f"{target}/{STAMP}"):
            Builder(params, target).build()
        remove_unfinished(params["root"])
        if link:
            turn(link, target)
            remove_old(params["root"], target, params["keep"], params["layers"])
    return found


def main() -> None:
    listed = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "python": {"type": "path", "required": True},
            "requirements": listed,
            "wheel": {"type": "path"},
            "without": listed,
            "extras": listed,
            "layers": {**listed, "elements": "path"},
            "wheels": {"type": "path"},
            "index": {"type": "str"},
            "check_import": {"type": "str"},
            "link": {"type": "path"},
            "keep": {"type": "int", "default": 2},
            "log": {"type": "path", "default": "/var/log/dto/environment.log"},
            "lock_seconds": {"type": "int", "default": 1800},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**ensure(module.params, module.check_mode))
    except Problem as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
