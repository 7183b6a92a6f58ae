"""Newer packages for a lab: those of its hosts with a later version, in a folder for apt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.commands import LabError, run
from tests.lab.lab import Lab

SUFFIX = "+dto1"
_LOG = "/shared/newer/log"
# Who was upgraded, and the jobs that ran on that host in that moment.
_NOTE = (
    'echo "$(hostname) {} $(squeue --noheader --states=R,CG --nodelist="$(hostname)" 2>/dev/null'
    f' | wc -l)" >> {_LOG} || true\n'
)


def publish(lab: Lab, packages: Mapping[str, str]) -> None:
    """Make package -> host's package newer, and a source of every host's apt."""
    folder = lab.shared / "newer"
    folder.mkdir(mode=0o755)
    entries = [_newer(lab, host, package, folder) for package, host in packages.items()]
    (folder / "Packages").write_text("\n".join(entries))
    for name in lab.hosts:
        line = "deb [trusted=yes] file:/shared/newer ./\n"
        lab.ssh(name, "sudo tee /etc/apt/sources.list.d/newer.list", stdin=line)


def upgrades(lab: Lab) -> list[tuple[str, str, int]]:
    """(host, package, jobs on the host) in the order in which they were upgraded."""
    lines = (lab.shared / "newer/log").read_text().splitlines()
    return [(host, package, int(jobs)) for host, package, jobs in map(str.split, lines)]


def versions(lab: Lab, name: str, packages: Sequence[str]) -> dict[str, str]:
    form = "--showformat=${Package} ${Version}\n"
    done = lab.inside(name, "dpkg-query", "--show", form, *packages)
    return dict(line.split() for line in done.stdout.splitlines())


def _newer(lab: Lab, host: str, package: str, folder: Path) -> str:
    """Repack what the host's apt has kept; returns its entry in the index."""
    kept = sorted((lab.host(host).root / "var/cache/apt/archives").glob(f"{package}_*.deb"))
    if not kept:
        raise LabError(f"{host} has kept no {package}_*.deb")
    tree = lab.directory / f"newer-{package}"
    run("dpkg-deb", "--raw-extract", str(kept[-1]), str(tree))
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: (.*)$", rf"Version: \1{SUFFIX}", control.read_text()))
    _note(tree / "DEBIAN/preinst", package)
    made = folder / f"{package}.deb"
    run("dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", str(tree), str(made))
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    place = f"Filename: ./{made.name}\nSize: {made.stat().st_size}\nSHA256: {digest}\n"
    return control.read_text().rstrip("\n") + "\n" + place


def _note(script: Path, package: str) -> None:
    text = script.read_text() if script.exists() else "#!/bin/sh\n"
    first, _, rest = text.partition("\n")
    script.write_text(f"{first}\n{_NOTE.format(package)}{rest}")
    script.chmod(0o755)
