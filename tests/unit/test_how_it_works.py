"""The page that explains the strategies shows what their code does now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from dto.runtime.collectives import algorithms
from dto.runtime.pipeline.partition import count_costs, cut


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    path = Path(__file__).parents[2] / "docs" / "pictures.py"
    spec = importlib.util.spec_from_file_location("pictures", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_picture_of_the_page_is_what_the_code_draws(pictures: ModuleType) -> None:
    page = pictures.PAGE.read_text()
    assert pictures.fill(page) == page, "run python docs/pictures.py"
    assert [name for name in pictures.PICTURES if f"<!-- drawn: {name} -->" not in page] == []


@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
@pytest.mark.parametrize("name", ["ring", "tree", "halving_doubling"])
def test_played_schedules_end_with_everybodys_gradient_everywhere(
    pictures: ModuleType, name: str, ranks: int
) -> None:
    made = [getattr(algorithms, name)(me, range(ranks), (0, 8)) for me in range(ranks)]
    everybody = set(range(ranks))
    assert pictures.play(made, 8)[-1] == [[everybody] * 8] * ranks


def test_the_text_tells_of_the_example_what_is_so(pictures: ModuleType) -> None:
    model = pictures.example()
    assert sum(p.numel() for p in model.parameters()) == 202
    assert tuple(model[2].weight.shape) == (8, 8)
    assert [list(part) for part in cut(count_costs(list(model)), 2)] == [[0, 1], [2, 3]]
