"""The wheels that hosts install from without a network: made once, in the hosts' own image."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

from tests.lab import image
from tests.lab.commands import LabError, run

_REPOSITORY = Path(__file__).parents[2]
# Horovod's own needs, what builds dto's wheel and a virtual environment, and the examples' data.
_MORE = (
    "cffi", "cloudpickle", "editables", "hatchling", "packaging", "pip", "psutil", "setuptools",
    "scikit-learn", "wheel",
)  # fmt: skip

# Runs as root inside an overlay on the base image, with this machine's network.
_MAKE = """
set -eu
export DEBIAN_FRONTEND=noninteractive XDG_CACHE_HOME=/outer-cache PIP_DISABLE_PIP_VERSION_CHECK=1
apt-get install --quiet --yes --no-install-recommends python3-venv
python3 -m venv /venv
/venv/bin/python -m pip download --quiet --dest /out "$@"
/venv/bin/python -m pip install --quiet --no-index --find-links /out "$@"
if ! ls /outer-cache/dto/wheels/horovod-*-torch-"$(/venv/bin/python - <<'PY'
import platform, sys, torch
print(f"{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}")
PY
)"/horovod-*.whl >/dev/null 2>&1; then
  apt-get install --quiet --yes --no-install-recommends g++ make cmake python3-dev
fi
/repository/scripts/install-horovod.sh --python /venv/bin/python
cp /outer-cache/dto/wheels/horovod-*-torch-"$(/venv/bin/python - <<'PY'
import platform, sys, torch
print(f"{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}")
PY
)"/horovod-*.whl /out/
"""


def requirements() -> list[str]:
    """What dto and its setup need on a host, with the torch that is here: Horovod fits that."""
    listed = importlib.metadata.requires("dto") or []
    wanted = [line.partition("; extra == ") for line in listed]
    needed = [line for line, _, extra in wanted if extra.strip("\"'") in ("", "cluster")]
    pinned = [line for line in needed if not line.startswith("torch")]
    return [*pinned, f"torch=={importlib.metadata.version('torch')}", *_MORE]


def wheel_folder(release: str = "bookworm") -> Path:
    """The folder for `pip install --no-index --find-links`."""
    wanted = requirements()
    path = image.CACHE / f"lab-wheels-{release}-{image.key_of(wanted, _MAKE)}"
    base = image.base(release)
    with image.locked(image.CACHE / f"lab-wheels-{release}"):
        if not path.is_dir():
            _make(base, path, wanted)
    return path


def _make(base: Path, path: Path, wanted: list[str]) -> None:
    scratch = path.with_name(path.name + ".scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    upper, work, root, out = (scratch / name for name in ("upper", "work", "root", "out"))
    for folder in (upper, work, root, out, image.CACHE / "wheels"):
        folder.mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={base},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "dto-lab-wheels", "-o", layers, str(root))
    try:
        made = run(
            "systemd-nspawn", "--quiet", "--register=no", "--pipe", "-D", str(root),
            "-M", "dto-lab-wheels", "--resolv-conf=off", "--timezone=off",
            *([] if Path("/run/systemd/system").is_dir() else ["--keep-unit"]),
            f"--bind={out}:/out", f"--bind={image.CACHE}:/outer-cache/dto",
            f"--bind-ro={_REPOSITORY}:/repository", *_pip_sources(),
            "--", "/bin/sh", "-c", _MAKE, "make-wheels", *wanted, check=False, timeout=2400,
        )  # fmt: skip
    finally:
        run("umount", str(root))
    if made.returncode:
        shutil.rmtree(scratch)
        raise LabError(f"no wheels for the lab: {(made.stderr or made.stdout)[-2000:]}")
    out.rename(path)
    shutil.rmtree(scratch)


def _pip_sources() -> list[str]:
    """This machine's own places for packages, as options that show them to pip inside."""
    listed = run(sys.executable, "-m", "pip", "config", "list").stdout
    options = []
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        name, value = name.rpartition(".")[2], value.strip("'")
        if name not in ("find-links", "index-url", "extra-index-url"):
            continue
        options.append(f"--setenv=PIP_{name.upper().replace('-', '_')}={value}")
        for word in value.split():
            folder = word.removeprefix("file://")
            if name != "find-links":
                folder = os.path.dirname(folder.rstrip("/"))  # an index's files lie beside it
            if word.startswith(("file:", "/")) and os.path.isdir(folder):
                options.append(f"--bind-ro={folder}")
    return list(dict.fromkeys(options))
