"""Contract 5: every strategy, by dto and by torch, trains as one process does.

Here a case of each strategy on each world; all combinations with DTO_FULL=1 (scripts/test.sh
--full). Each is a real `DistributedTrainer.fit` over 20 steps whose last batch is uneven.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from tests.processes.pool import pool

pytestmark = [pytest.mark.process, pytest.mark.ranks]
Options = dict[str, Any]
IS_FULL = os.environ.get("DTO_FULL") == "1"
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
NUMBERS: list[Options] = [
    {"optimizer": optimizer, "dtype": dtype, "accumulation_steps": pieces}
    for pieces in (1, 2)
    for dtype in TOLERANCE
    for optimizer in ("sgd", "adamw")
]
DATA: list[Options] = [
    {"strategy": "ddp"},
    {"strategy": "ddp", "communication": "tree"},
    {"strategy": "zero1"},
    {"strategy": "zero2"},
    {"strategy": "zero3"},
    {"strategy": "ps"},
]
LAYERS: list[Options] = [
    {"strategy": "tensor"},
    {"strategy": "pipeline", "micro_batches": 4},
    {"strategy": "pipeline", "micro_batches": 5, "schedule": "gpipe"},
]
GRIDS: list[Options] = [
    {"strategy": "ddp", "mesh": {"dp": 2, "pp": 2}, "micro_batches": 2},
    {"strategy": "ddp", "mesh": {"dp": 2, "tp": 2}},
    {"strategy": "ddp", "mesh": {"pp": 2, "tp": 2}, "micro_batches": 4},
    {"strategy": "zero1", "mesh": {"dp": 2, "pp": 2}, "micro_batches": 2},
    {"strategy": "zero1", "mesh": {"dp": 2, "tp": 2}},
    {"strategy": "zero2", "mesh": {"dp": 2, "tp": 2}},
    {"strategy": "fsdp", "mesh": {"dp": 2, "tp": 2}},
    {"strategy": "zero1", "mesh": {"pp": 2, "tp": 2}, "micro_batches": 4},
    {"strategy": "pipeline", "mesh": {"pp": 2}, "micro_batches": 2, "schedule": "interleaved"},
]
TORCH: list[Options] = [
    {"strategy": "ddp"},
    {"strategy": "zero2"},
    {"strategy": "zero3"},
    {"strategy": "tensor"},
    {"strategy": "pipeline", "micro_batches": 4, "samples": 108},  # torch wants even ones
]
HOROVOD: list[Options] = [DATA[0], *DATA[2:5], LAYERS[0]]


def spread(cases: list[tuple[str, int, Options]]) -> list[Any]:
    """Each case with one set of numbers in turn, or with all of them."""
    turns = itertools.cycle(NUMBERS)
    chosen = [
        (backend, world, {**case, **numbers})
        for backend, world, case in cases
        for numbers in (NUMBERS if IS_FULL else [next(turns)])
        if not (IS_FULL and "micro_batches" in case and numbers["accumulation_steps"] > 1)
    ]
    for _, _, case in chosen:
        if "micro_batches" in case:  # which cut the batch already
            case["accumulation_steps"] = 1
    return [pytest.param(*case, id=name(*case), marks=marks(case[0])) for case in chosen]


def name(backend: str, world: int, case: Options) -> str:
    mesh = [f"{axis}{size}" for axis, size in case.get("mesh", {}).items()]
    words = [str(value) for key, value in case.items() if key != "mesh"]
    return "-".join([backend, str(world), *mesh, *words])


def marks(backend: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.horovod] if backend == "horovod" else []


WORLDS = [(world, case) for case in DATA + LAYERS for world in (1, 2, 3, 4)]
COMPILED = {"strategy": "tensor", "compile": {"backend": "aot_eager"}}
CASES = [
    ("gloo", 2, COMPILED),
    *(("gloo", world, case) for world, case in WORLDS),
    *(("gloo", 4, case) for case in GRIDS),
    *(
        ("gloo", world, {**case, "backend": "torch"})
        for case in TORCH
        for world in ((2, 3, 4) if IS_FULL else (3,))
    ),
    *(("horovod", world, case) for world in ((2, 3, 4) if IS_FULL else (2,)) for case in HOROVOD),
]


def train(backend: str, world: int, case: Options, folder: Path) -> Options:
    """What rank 0 found; all ranks counted the same steps."""
    found = pool(backend, world).run("matrix.train", world, run_dir=str(folder), epochs=2, **case)
    assert {rank["steps"] for rank in found} == {2 * -(-case.get("samples", 113) // 12)}
    first: Options = found[0]
    return first


@pytest.mark.parametrize(("backend", "world", "case"), spread(CASES))
def test_training_equals_one_process(
    backend: str, world: int, case: Options, tmp_path: Path
) -> None:
    found = train(backend, world, case, tmp_path)
    assert found["distance"] <= TOLERANCE[case["dtype"]]
    assert found["losses"][1] < found["losses"][0]


REPEATED = [*DATA, *LAYERS, *GRIDS] if IS_FULL else [DATA[0], DATA[4], LAYERS[1], GRIDS[3]]


@pytest.mark.parametrize("case", REPEATED, ids=str)
def test_a_run_repeats_bit_by_bit(case: Options, tmp_path: Path) -> None:
    numbers = {"optimizer": "adamw", "dtype": "float32", "clip_grad_norm": 0.5}
    runs = [train("gloo", 4, {**case, **numbers}, tmp_path / str(n)) for n in range(2)]
    assert runs[0]["bits"] == runs[1]["bits"]
    assert runs[0]["distance"] <= 1e-5


CHAIN: list[tuple[int, Options]] = [
    (4, {"strategy": "zero2"}),
    (2, {"strategy": "ddp"}),
    (3, {"strategy": "zero3"}),
    (4, {"strategy": "tensor", "mesh": {"dp": 2, "tp": 2}}),
    (4, {"strategy": "zero1", "mesh": {"tp": 2, "pp": 2}, "micro_batches": 2}),
    (3, {"strategy": "ps"}),
    (1, {"strategy": "ddp"}),
    (3, {"strategy": "pipeline", "micro_batches": 4}),
    (2, {"strategy": "zero3", "backend": "torch"}),
    (4, {"strategy": "zero1"}),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"] if IS_FULL else ["adamw"])
def test_each_strategy_goes_on_from_the_others_checkpoint(optimizer: str, tmp_path: Path) -> None:
    """One run, in each epoch by another strategy on another number of ranks."""
    for epochs, (world, case) in enumerate(CHAIN, start=1):
        found = pool("gloo").run(
            "matrix.train",
            world,
            run_dir=str(tmp_path),
            epochs=epochs,
            optimizer=optimizer,
            dtype="float64",
            **case,
        )[0]
        assert found["steps"] == 10 * epochs
        assert len(found["losses"]) == epochs
        assert found["distance"] <= 1e-10, case
