"""What a rank's log says about its end: every shape of Python's tracebacks, and foreign text."""

from __future__ import annotations

import pytest

from dto.launch.traces import find_cause, find_exception, one_line

CAUGHT = "Traceback (most recent call last):\n  File 'a', line 1\nZeroDivisionError: division\n"


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ('  File "a.py", line 1\n    def (\n        ^\nSyntaxError: invalid\n', "SyntaxError"),
        ("Traceback (most recent call last):\n  File 'a'\nÜ: x\n", "Ü"),
        ("Traceback (most recent call last):\n  File 'a'\nf.<locals>.E: x\n", "f.<locals>.E"),
        (
            "  + Exception Group Traceback (most recent call last):\n"
            '  |   File "a.py", line 5, in <module>\n'
            "  |     raise ExceptionGroup('many', errors)\n"
            "  | ExceptionGroup: many (2 sub-exceptions)\n"
            "  +-+---------------- 1 ----------------\n"
            "    | Traceback (most recent call last):\n"
            '    |   File "a.py", line 2, in f\n'
            "    | ValueError: a\n"
            "    +------------------------------------\n",
            "ExceptionGroup",
        ),
    ],
)
def test_the_type_of_the_exception(log: str, found: str) -> None:
    assert find_exception(log)[0] == found


def test_a_traceback_that_was_caught_is_not_why_a_script_chose_its_code() -> None:
    assert find_cause(f"{CAUGHT}went on\n", code=4) == ("", "went on")
    assert find_cause(CAUGHT, code=4) == ("ZeroDivisionError", "division")
    assert find_cause(f"{CAUGHT}a warning at exit\n", code=1) == ("ZeroDivisionError", "division")


def test_a_message_fits_on_a_line_and_cannot_steer_a_terminal() -> None:
    assert one_line("a\n  b\r\tc") == "a b c"
    assert "\x1b" not in one_line("\x1b[2J\x07")
    long = one_line("x" * 3_000_000)
    assert len(long) == 500 and long.endswith("…")
