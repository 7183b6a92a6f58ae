"""Only whole checkpoints on the newest chain are ever loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dto.checkpoint.manifest import Manifest, TensorEntry
from dto.checkpoint.store import Commit, Store
from dto.errors import CheckpointError


def manifest(step: int, parent: Commit | None = None, world: int = 1) -> Manifest:
    return Manifest(
        step=step,
        parent=parent.name if parent else None,
        attempt=0,
        generation=0,
        world=world,
        strategy="ddp",
        global_batch=8,
        position={"epoch": 0, "samples": step * 8, "seed": 1},
        tensors=[],
        optimizer={},
        files={},
    )


def save(store: Store, step: int, parent: Commit | None = None) -> Commit:
    weights = torch.full((5,), float(step))
    return store.save(manifest(step, parent), {"model/w": weights, "model/n": torch.tensor(step)})


def names(commits: list[Commit]) -> list[str]:
    return [commit.name for commit in commits]


def test_what_is_saved_is_loaded_and_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    store = Store(tmp_path, attempt=2)
    tensors = {
        "model/a": torch.randn(3, 4).t(),  # not contiguous
        "model/empty": torch.empty(0, 5),
        "model/scalar": torch.tensor(7),
        "model/flag": torch.tensor([True, False]),
        "model/half": torch.randn(3).to(torch.bfloat16),
        "optim/ü/z": torch.randn(2, dtype=torch.complex64),
    }
    commit = store.save(manifest(120), tensors)
    assert commit.name == "step-120.a2g0"
    assert store.verify(commit) is None
    read, loaded = store.load(commit)
    assert (read.step, read.attempt, read.position["samples"]) == (120, 2, 960)
    outside = safetensors.torch.load_file(commit.path / "rank-0.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype, name
        assert torch.equal(outside[name], tensor), name


def test_pieces_of_several_ranks_make_whole_tensors(tmp_path: Path) -> None:
    store, whole = Store(tmp_path), torch.arange(10.0).reshape(2, 5)
    directory = store.begin(1)
    files, entries = {}, []
    for rank, (start, end) in enumerate([(0, 3), (3, 7), (7, 10)]):
        file = f"rank-{rank}.safetensors"
        files[file] = store.write(directory, file, {"model/w": whole.flatten()[start:end]})
        entries.append(TensorEntry("model/w", (2, 5), "float32", file, (start, end), [rank]))
    base = manifest(1, world=3).__dict__
    commit = store.commit(directory, Manifest(**{**base, "tensors": entries, "files": files}))
    assert torch.equal(store.load(commit)[1]["model/w"], whole)
    del entries[1]
    shutil.rmtree(commit.path / "..", ignore_errors=True)
    directory = store.begin(1)
    for rank, (start, end) in ((0, (0, 3)), (2, (7, 10))):
        store.write(directory, f"rank-{rank}.safetensors", {"model/w": whole.flatten()[start:end]})
    del files["rank-1.safetensors"]
    commit = store.commit(directory, Manifest(**{**base, "tensors": entries, "files": files}))
    assert "lacks its elements from 3 to 7" in (store.verify(commit) or "")


def test_the_chain_follows_parents_of_the_newest_attempt(tmp_path: Path) -> None:
    first, second = Store(tmp_path, attempt=1), Store(tmp_path, attempt=2)
    a = save(first, 10)
    b = save(first, 20, a)
    c = save(second, 15, a)  # went on from a
    d = save(first, 30, b)  # the first attempt was not dead after all
    assert names(second.chain()) == [c.name, a.name]
    assert d not in second.candidates()
    retry = Store(tmp_path, attempt=2, generation=1)
    e = save(retry, 12, a)
    assert names(retry.chain()) == [e.name, a.name]


def test_a_pruned_parent_ends_the_chain(tmp_path: Path) -> None:
    store = Store(tmp_path)
    a = save(store, 1)
    b = save(store, 2, a)
    shutil.rmtree(a.path)
    assert names(store.chain()) == [b.name]


def test_a_damaged_head_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    a = save(store, 1)
    b = save(store, 2, a)
    c = save(store, 3, b)
    path = c.path / "rank-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert store.latest_valid() == b
    assert "step-3.a0g0 is skipped: rank-0.safetensors has" in caplog.text
    (b.path / "manifest.json").write_text("{}")
    assert store.latest_valid() == a
    assert "step-2.a0g0 is skipped: manifest field digest is missing" in caplog.text
    (c.path / "manifest.json").write_text((c.path / "manifest.json").read_text() + " ")
    assert store.latest_valid() == a


def test_a_step_is_committed_once_and_leftovers_are_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.begin(5) / "half").write_text("x")
    assert store.commits() == []
    assert list(store.begin(5).iterdir()) == []
    commit = save(store, 5)
    with pytest.raises(CheckpointError, match="already committed"):
        store.begin(5)
    with pytest.raises(CheckpointError, match="already committed"):
        store.commit(commit.path, manifest(5))


def test_a_missing_file_prevents_the_commit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    directory = store.begin(1)
    record = store.write(directory, "a.safetensors", {"w": torch.ones(3)})
    (directory / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match="was not written whole"):
        store.commit(
            directory, Manifest(**{**manifest(1).__dict__, "files": {"a.safetensors": record}})
        )
    assert store.commits() == []


def test_prune_keeps_the_last_of_the_chain_and_the_best(tmp_path: Path) -> None:
    store = Store(tmp_path, keep_last=2)
    parent, commits = None, []
    for step in range(1, 6):
        parent = save(store, step, parent)
        commits.append(parent)
    store.mark_best(commits[1])
    (tmp_path / "step-4.a0g0x").mkdir()
    assert store.prune() == ["step-1.a0g0", "step-3.a0g0"]
    assert names(store.commits()) == ["step-5.a0g0", "step-4.a0g0", "step-2.a0g0"]
    assert store.best() == commits[1]
    assert (tmp_path / "step-4.a0g0x").exists()  # not ours


def test_prune_removes_what_older_attempts_left_and_spares_newer_ones(tmp_path: Path) -> None:
    old, new = Store(tmp_path, attempt=1), Store(tmp_path, attempt=2)
    a = save(old, 10)
    stray = save(old, 20, a)
    leftover = old.begin(30)
    b = save(new, 11, a)
    running = new.begin(12)
    assert old.prune() == []
    assert new.prune() == sorted([stray.name, leftover.name])
    assert running.exists() and names(new.chain()) == [b.name, a.name]


def test_keep_last_zero_keeps_everything(tmp_path: Path) -> None:
    store = Store(tmp_path, keep_last=0)
    a = save(store, 1)
    save(store, 2, a)
    assert store.prune() == [] and len(store.commits()) == 2


def test_unsupported_tensors_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(CheckpointError, match="model/w is a torch.complex128"):
        store.write(store.begin(1), "f", {"model/w": torch.zeros(1, dtype=torch.complex128)})


def test_a_manifest_names_the_field_that_is_wrong() -> None:
    text = manifest(1).to_json()
    with pytest.raises(CheckpointError, match="digest does not fit"):
        Manifest.from_json(text.replace('"step":1', '"step":2'))
    with pytest.raises(CheckpointError, match="field world has the wrong type"):
        Manifest.from_json(Manifest(**{**manifest(1).__dict__, "world": "two"}).to_json())
    with pytest.raises(CheckpointError, match="manifest version 2 is not 1"):
        Manifest.from_json(Manifest(**{**manifest(1).__dict__, "version": 2}).to_json())
    with pytest.raises(CheckpointError, match="not JSON"):
        Manifest.from_json(b"\xff")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Commit:
    return save(Store(tmp_path_factory.mktemp("saved")), 1)


@settings(max_examples=150)
@given(data=st.data())
def test_any_flipped_cut_or_deleted_byte_is_noticed(saved: Commit, data: st.DataObject) -> None:
    store = Store(saved.path.parent)
    path = saved.path / data.draw(st.sampled_from(["manifest.json", "rank-0.safetensors"]))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    harm = data.draw(st.sampled_from(["flip", "cut", "drop", "delete"]))
    if harm == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        path.write_bytes(before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :])
    elif harm == "cut":
        path.write_bytes(before[:place])
    elif harm == "drop":
        path.write_bytes(before[:place] + before[place + 1 :])
    else:
        path.unlink()
    try:
        assert store.verify(saved) is not None
        with pytest.raises(CheckpointError):
            store.load(saved)
    finally:
        path.write_bytes(before)
    assert store.verify(saved) is None


CRASHES = """
import os, sys
import torch
from pathlib import Path
sys.path.insert(0, os.path.dirname({test!r}))
from test_checkpoint_store import save
from dto.checkpoint.store import Store

torch.set_num_threads(1)

def lines(root, last):
    '''Save and prune; leave at traced line `last` without any cleaning up.'''
    seen = 0
    def trace(frame, event, arg):
        nonlocal seen
        name = frame.f_code.co_filename
        if "checkpoint" not in name and "runs" not in name:
            return None
        seen += 1
        if seen == last:
            os._exit(9)
        return trace
    store = Store(root, keep_last=1)
    parent = store.chain()[0]
    sys.settrace(trace)
    save(store, parent.step + 1, parent)
    store.prune()
    sys.settrace(None)
    return seen

root = Path({root!r})
save(Store(root), 1)
total = lines(root, -1)
assert total > 200, total
for last in range(1, total, max(1, total // 60)):
    before = Store(root).latest_valid()
    pid = os.fork()
    if pid == 0:
        lines(root, last)
        os._exit(0)
    os.waitpid(pid, 0)
    store = Store(root)
    after = store.latest_valid()
    assert after.step in (before.step, before.step + 1), (before, after)
    assert all(store.verify(commit) is None for commit in store.commits())
    assert float(store.load(after)[1]["model/w"][0]) == after.step
print("survived", after.step)
"""


def test_a_crash_at_any_line_of_a_save_leaves_a_valid_newest_checkpoint(tmp_path: Path) -> None:
    code = textwrap.dedent(CRASHES.format(test=str(Path(__file__).resolve()), root=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "survived" in done.stdout
