"""Installs Debian packages by apt-get alone, so that --check works on a bare host, too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
---
module: dto_packages
short_description: Installs or upgrades Debian packages, and finishes what a killed run has left
description:
  - Updates the package lists only when a package is missing and they are old or lack it.
options:
  name: {description: Packages that shall be there., type: list, elements: str, default: []}
  repair: {description: Finish half-installed packages first., type: bool, default: false}
  upgrade:
    description: Bring those that are installed up to date, held ones too, and install no other.
    type: bool
    default: false
  update: {description: Read the package lists first., type: bool, default: false}
  recommends: {description: Install recommended packages too., type: bool, default: false}
  lock_seconds: {description: How long to wait for another apt., type: int, default: 300}
  fresh_seconds: {description: Age at which package lists are old., type: int, default: 3600}
"""

EXAMPLES = """
- name: Install what is needed
  dto_packages:
    name: [munge]
"""

LOCK = "/var/lib/dpkg/lock-frontend"
LISTS = "/var/lib/apt/lists"
SOURCES = "/etc/apt/sources.list.d"
OPTIONS = (
    "-qq", "-y", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
    "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30", "-o", "Dpkg::Use-Pty=0",
)  # fmt: skip


def installed(status: str) -> set:
    """Return the packages that dpkg-query's `name status` lines call installed."""
    lines = (line.split() for line in status.splitlines())
    return {words[0] for words in lines if words[1:] == ["install", "ok", "installed"]
            or words[1:] == ["hold", "ok", "installed"]}  # fmt: skip


def complaint(output: str) -> str:
    """Return what apt says is wrong: its E: lines, else the last line it wrote."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line[2:].strip() for line in lines if line.startswith("E:")]
    errors = errors or [line for line in lines if line.startswith(("dpkg: error", "Err:"))]
    return " | ".join(errors[:3] or lines[-1:] or ["it said nothing"])


def run(argv: list, **extra: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", **extra}
    env.update(NEEDRESTART_MODE="l", APT_LISTCHANGES_FRONTEND="none", UCF_FORCE_CONFFOLD="1")
    return subprocess.run(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip


def missing(names: list) -> list:
    if not names:
        return []
    query = run(["dpkg-query", "-W", "-f", "${Package} ${Status}\n", *names])
    there = installed(query.stdout)
    return [name for name in names if name not in there]


def versions(names: list) -> dict:
    """Return package -> version of those that are installed."""
    query = run(["dpkg-query", "-W", "-f", "${Package} ${Version} ${Status}\n", *names])
    lines = (line.split() for line in query.stdout.splitlines())
    return {words[0]: words[1] for words in lines if words[3:] == ["ok", "installed"]}


def newer(simulated: str) -> list:
    """Return the packages that apt-get --simulate would put in place."""
    lines = (line.split() for line in simulated.splitlines())
    return sorted({words[1] for words in lines if words[:1] == ["Inst"]})


def upgrade(names: list, lock_seconds: int, is_dry: bool) -> tuple[list, str]:
    """Upgrade what is installed; returns what got another version, and what went wrong."""
    before = versions(names)
    argv = ["apt-get", *OPTIONS, "-o", f"DPkg::Lock::Timeout={lock_seconds}",
            "--no-install-recommends", "--only-upgrade", "--allow-change-held-packages",
            "install", *before]  # fmt: skip
    if not before:
        return [], ""
    if is_dry:
        done = run([word for word in argv if word != "-qq"] + ["--simulate"])
        return newer(done.stdout), complaint(done.stdout) if done.returncode else ""
    held = run(["apt-mark", "showhold"]).stdout.split()
    done = run(argv)
    if held:
        run(["apt-mark", "hold", *held])
    after = versions(names)
    changed = sorted(name for name in after if after[name] != before.get(name))
    return changed, complaint(done.stdout) if done.returncode else ""


def is_broken() -> bool:
    """Tell whether an earlier apt was cut off."""
    with contextlib.suppress(OSError):
        if any(name.isdigit() for name in os.listdir("/var/lib/dpkg/updates")):
            return True
    return bool(run(["dpkg", "--audit"]).stdout.strip())


def lock(seconds: int) -> int | None:
    """Take dpkg's front-end lock as apt does; None when another program kept it for too long."""
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o640)
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            if time.monotonic() > until:
                os.close(descriptor)
                return None
            time.sleep(1)


def repair(seconds: int) -> str:
    """Configure what is only unpacked; returns what went wrong, or nothing."""
    held = lock(seconds)
    if held is None:
        return f"another apt or dpkg has held its lock for {seconds} s: end it, then run again"
    try:
        done = run(["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"],
                   DPKG_FRONTEND_LOCKED="1")  # fmt: skip
    finally:
        os.close(held)
    fixed = run(["apt-get", *OPTIONS, "-o", f"DPkg::Lock::Timeout={seconds}", "-f", "install"])
    if fixed.returncode or is_broken():
        return f"half-installed packages: {complaint(fixed.stdout + done.stdout)}"
    return ""


def lists_age(lists: str = LISTS, sources: str = SOURCES) -> float:
    """Return the age of the package lists; endless where there are none, or a source is newer."""
    try:
        if not any("_Packages" in name or "_InRelease" in name for name in os.listdir(lists)):
            return float("inf")
        read = os.stat(lists).st_mtime
        named = [os.stat(sources).st_mtime, *(f.stat().st_mtime for f in os.scandir(sources))]
    except OSError:
        return float("inf")
    return time.time() - read if max(named) < read else float("inf")


def install(names: list, recommends: bool, lock_seconds: int, fresh_seconds: int) -> str:
    """Install packages; returns what went wrong, or nothing."""
    waiting = ("-o", f"DPkg::Lock::Timeout={lock_seconds}")
    wanted = "--install-recommends" if recommends else "--no-install-recommends"
    argv = ["apt-get", *OPTIONS, *waiting, wanted, "install", *names]
    is_fresh = lists_age() < fresh_seconds
    done = run(argv) if is_fresh else None
    if done is None or done.returncode:
        wrong = update(lock_seconds)
        done = run(argv)
        if done.returncode and wrong:
            return wrong
    return complaint(done.stdout) if done.returncode else ""


def update(lock_seconds: int) -> str:
    """Read the package lists; returns what went wrong, or nothing."""
    argv = ["apt-get", *OPTIONS, "-o", f"DPkg::Lock::Timeout={lock_seconds}", "update"]
    done = run(argv)
    return f"apt-get update: {complaint(done.stdout)}" if done.returncode else ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "default": []},
            "repair": {"type": "bool", "default": False},
            "upgrade": {"type": "bool", "default": False},
            "update": {"type": "bool", "default": False},
            "recommends": {"type": "bool", "default": False},
            "lock_seconds": {"type": "int", "default": 300},
            "fresh_seconds": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    given = module.params
    must_repair = given["repair"] and is_broken()
    if must_repair and not module.check_mode:
        if wrong := repair(given["lock_seconds"]):
            module.fail_json(msg=wrong)
    if given["update"] and not module.check_mode:
        if wrong := update(given["lock_seconds"]):
            module.fail_json(msg=wrong)
    change = upgraded if given["upgrade"] else installed_now
    found = change(module)
    module.exit_json(changed=bool(found or must_repair), installed=found, repaired=must_repair)


def upgraded(module: AnsibleModule) -> list:
    given = module.params
    found, wrong = upgrade(given["name"], given["lock_seconds"], module.check_mode)
    if wrong:
        module.fail_json(msg=f"could not upgrade {', '.join(given['name'])}: {wrong}")
    return found


def installed_now(module: AnsibleModule) -> list:
    given = module.params
    absent = missing(given["name"])
    if absent and not module.check_mode:
        wrong = install(
            absent, given["recommends"], given["lock_seconds"], given["fresh_seconds"]
        )
        if wrong:
            module.fail_json(msg=f"could not install {', '.join(absent)}: {wrong}")
    return absent


if __name__ == "__main__":
    main()
