"""Which folder Terraform works in: one of dto's own roots, or any other that is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from dto.cluster.playbook import data_folder, is_checkout
from dto.errors import UsageError

PROVIDERS = ("aws", "nebius")


def find_root(given: str | None, here: Path, say: Callable[[str], None]) -> Path:
    """Return the folder: PROVIDER means dto's root for it, nothing means the current folder."""
    if given in PROVIDERS and not _is_root(here / given):
        return _own_root(given, here, say)
    if given is None:
        if _is_root(here):
            return here
        names = " or ".join(PROVIDERS)
        raise UsageError(f"no *.tf in the current folder: name a cloud ({names}) or a folder")
    folder = Path(given).expanduser()
    if not folder.is_dir():
        known = ", ".join(PROVIDERS)
        raise UsageError(f"{given} is neither a cloud that dto knows ({known}) nor a folder")
    if not _is_root(folder):
        raise UsageError(f"{given} holds no *.tf: it is no folder of Terraform's")
    return folder.absolute()


def _is_root(folder: Path) -> bool:
    return any(folder.glob("*.tf")) or any(folder.glob("*.tf.json"))


def _own_root(provider: str, here: Path, say: Callable[[str], None]) -> Path:
    source = data_folder("terraform")
    if is_checkout():
        return source / provider
    copy = here / f"dto-{provider}"
    if not _is_root(copy / provider):
        # modules/ must lie beside the root, which names it as ../modules
        shutil.copytree(source / "modules", copy / "modules", dirs_exist_ok=True)
        shutil.copytree(source / provider, copy / provider, dirs_exist_ok=True)
        say(f"copied dto's Terraform for {provider} to {copy}: it and its state live there now")
    return copy / provider
