"""`python -m benchmarks` lists them, NAME runs one, --all writes a dated page."""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import pkgutil
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import report

_HERE = Path(__file__).parent
_FRAMEWORK = {"__main__", "ranks", "report", "step_cases", "workloads"}


def names() -> list[str]:
    found = (module.name for module in pkgutil.iter_modules([str(_HERE)]))
    return sorted(name for name in found if name not in _FRAMEWORK)


def load(name: str) -> tuple[str, Callable[[bool], list[report.Measure]]]:
    """A benchmark is a module with a one-sentence docstring and `run(quick) -> measures`."""
    module = importlib.import_module(f"benchmarks.{name}")
    return (module.__doc__ or "").strip().splitlines()[0], module.run


def hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = models[0] if models else platform.machine()
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Python {platform.python_version()}"


def commit() -> str:
    """The commit that was measured, marked where the tree differs from it."""
    command = ["git", "-C", str(_HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    return done.stdout.strip() or "unknown"


def write_page(quick: bool) -> Path:
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    command = "python -m benchmarks --all" + (" --quick" if quick else "")
    parts = [f"# Benchmarks, {today}", f"`{command}` at commit `{commit()}` on {hardware()}."]
    for name in names():
        sentence, run = load(name)
        try:
            figures = report.markdown(run(quick))
        except report.LeftOut as reason:
            figures = f"Left out: {reason}."
        parts += [f"## {name}", sentence, figures]
    page = _HERE / "results" / f"{today}.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")
    return page


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=names(), help="the benchmark to run")
    parser.add_argument("--quick", action="store_true", help="within 50 s, with more noise")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--all", action="store_true", help="run all, write results/<date>.md")
    options = parser.parse_args()
    if options.all:
        print(write_page(options.quick))
    elif options.name is None:
        for name in names():
            print(f"{name:<16} {load(name)[0]}")
    else:
        try:
            measures = load(options.name)[1](options.quick)
        except report.LeftOut as reason:
            print(f"error: {options.name} {reason}", file=sys.stderr)
            return 5
        lines = [measure.to_json() for measure in measures]
        print("\n".join(lines) if options.json else report.table(measures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
