"""Which folder of checkpoints a session writes to, and which one it goes on from."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path

from dto.checkpoint.store import Commit, Store
from dto.errors import CheckpointError
from dto.runtime.settings import Settings
from dto.runtime.transport import Transport


def open_store(transport: Transport, settings: Settings, env: Mapping[str, str]) -> Store:
    """The folder asked for; else the run's where dto started us, or a new one.

    A script's second trainer has a folder of its own below the first one's: their steps are
    counted apart.
    """
    if env.get("DTO_RUN_DIR"):
        attempt = int(env.get("DTO_ATTEMPT", "0"))
        generation = int(env.get("DTO_GENERATION", "0"))
        asked = settings.run_dir
        directory = store_directory(Path(asked)) if asked else _own_folder(Path(env["DTO_RUN_DIR"]))
        return Store(directory, attempt, generation, settings.keep_last)
    name = f"run_{time.strftime('%Y%m%d_%H%M%S')}"
    chosen = Path(settings.run_dir) if settings.run_dir else Path("checkpoints") / name
    return next_attempt(transport, transport.all_gather_object(chosen)[0], settings.keep_last)


_count = itertools.count(1)


def _own_folder(run_dir: Path) -> Path:
    number = next(_count)
    return run_dir / "checkpoints" / (f"trainer-{number}" if number > 1 else "")


def next_attempt(transport: Transport, path: Path, keep_last: int) -> Store:
    """Go on in `path`, as the next attempt of whoever wrote there before."""
    directory = store_directory(path)
    previous = Store(directory).commits() if transport.rank == 0 else []
    attempt = previous[0].attempt + 1 if previous else 0
    return Store(directory, transport.all_gather_object(attempt)[0], 0, keep_last)


def store_directory(path: Path) -> Path:
    """The folder of checkpoints that `path` means: itself, a run's, or the one it is a part of."""
    if (path / "manifest.json").is_file():
        return path.parent
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def find_commit(path: Path) -> Commit:
    """The commit at `path`, or the newest valid one of the run or folder at `path`."""
    store = Store(store_directory(path))
    if (path / "manifest.json").is_file():
        found = next((c for c in store.commits() if c.name == path.name), None)
    else:
        found = store.latest_valid()
    if found is None:
        raise CheckpointError(f"{path} is no checkpoint, and no run with a valid one")
    return found


def newest_run(root: Path = Path("checkpoints")) -> Path | None:
    """The last `run_<timestamp>` below `root` that has a checkpoint."""
    runs = sorted(root.glob("run_*"), reverse=True)
    return next((run for run in runs if Store(run).commits()), None)


def find_start(
    transport: Transport, settings: Settings, path: str | Path
) -> tuple[Path, str | None] | None:
    """What `resume_from_checkpoint` means: a folder, and a checkpoint's name if just one will do.

    Rank 0 looks and the others hear, so that all go on from the same.
    """
    found: tuple[str, str | None] | None = None
    if transport.rank == 0 and str(path) == "auto":
        asked = settings.run_dir
        run = Path(asked) if asked else newest_run()
        found = (str(run), None) if run else None
    elif transport.rank == 0:
        commit = find_commit(Path(path))
        only = commit.name if (Path(path) / "manifest.json").is_file() else None
        found = (str(commit.path.parent), only)
    agreed = transport.all_gather_object(found)[0]
    return (Path(agreed[0]), agreed[1]) if agreed else None
