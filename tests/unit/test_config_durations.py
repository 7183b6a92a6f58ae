"""Times are read as people and sbatch write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dto.config.durations import parse_seconds, parse_time_limit, slurm_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4h", 14400),
        ("1h30m", 5400),
        ("1h 30min", 5400),
        ("1.5h", 5400),
        ("90s", 90),
        ("2d", 172800),
        ("30", 1800),
        ("30:15", 1815),
        ("24:00:00", 86400),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-12:30:10", 131410),
    ],
)
def test_a_time_limit_in_any_usual_spelling(text: str, seconds: int) -> None:
    assert parse_time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "4 parsecs", "-3", "1:2:3:4", "h4", "0", "0h", "4h!"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time_limit(text)


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), ("2m", 120.0), ("0.5", 0.5)])
def test_a_bare_number_of_seconds_is_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def test_what_is_no_number_of_seconds_is_refused() -> None:
    with pytest.raises(ValueError, match="'soon' is not a number of seconds"):
        parse_seconds("soon")


@given(st.integers(1, 366 * 86400))
def test_what_slurm_is_told_reads_back_as_the_same_time(seconds: int) -> None:
    assert parse_time_limit(slurm_time(seconds)) == seconds
