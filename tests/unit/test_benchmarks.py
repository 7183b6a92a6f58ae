"""The figures that benchmarks report are medians of pairs, in the shape that contract 6 names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import report


def test_a_ratio_is_the_median_of_paired_ratios_with_bounds() -> None:
    measure = report.ratio("step.a.over_b", [1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert (measure.value, measure.min, measure.max, measure.runs) == (1.0, 0.5, 1.5, 3)
    assert measure.low <= measure.value <= measure.high


def test_json_is_one_flat_object_with_the_names_of_the_contract() -> None:
    measure = report.difference("startup.help.over_pass", "ms", [0.2, 0.4], [0.1, 0.1], 1000)
    row = json.loads(measure.to_json())
    assert {"name", "value", "unit", "runs", "min", "max"} <= row.keys()
    assert row["value"] == 200.0


def test_every_block_measures_every_case_once_in_shuffled_order() -> None:
    seen: list[str] = []

    def case(name: str) -> float:
        seen.append(name)
        return float(len(seen))

    rows = report.shuffled_blocks({name: lambda n=name: case(n) for name in "abc"}, blocks=20)
    blocks = ["".join(seen[start : start + 3]) for start in range(0, 60, 3)]
    assert all(sorted(block) == ["a", "b", "c"] for block in blocks)
    assert len(set(blocks)) > 1
    assert {len(values) for values in rows.values()} == {20}


def test_the_list_names_each_benchmark_with_its_sentence(repository: Path) -> None:
    command = [sys.executable, "-m", "benchmarks"]
    done = subprocess.run(command, cwd=repository, text=True, capture_output=True, check=True)
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert "import submitit" in listed["startup"]
