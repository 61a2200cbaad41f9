"""The last line of a start that failed: how it is put together."""

from __future__ import annotations

import logging

import pytest

from realtime.cli.failed_start import FailedStart, on_one_line

TRACEBACK = """Traceback (most recent call last):
  File "/srv/app.py", line 3, in <module>
    import other
  File "/srv/other.py", line 12, in <module>
    raise ValueError("no table")
ValueError: no table
"""

logger = logging.getLogger("sticky")


@pytest.mark.parametrize(
    ("report", "rest"),
    [
        (TRACEBACK, "ValueError: no table (/srv/other.py, line 12)"),
        ("app: there is no file app.py\n", "app: there is no file app.py"),
        ("x.py, line 2: invalid syntax\n    def f(:", "x.py, line 2: invalid syntax def f(:"),
    ],
)
def test_a_report_on_one_line(report: str, rest: str) -> None:
    head = "slot 1: worker 7 cannot boot"
    assert on_one_line(f"{head}\n{report}") == f"{head}: {rest}"
    assert on_one_line(head) == head


def test_the_last_two_errors_are_the_reason() -> None:
    with FailedStart() as start:
        logger.error("! earlier")
        logger.error("! slot 0: worker 7 cannot boot\n%s", "no")
        logger.warning("= another worker in 1 s")
        logger.error("! no worker could boot")
        assert start.reason(3) == "slot 0: worker 7 cannot boot: no; no worker could boot"
        assert start.reason(0) is None
        assert start.reason(128 + 3) is None, "a signal ended it"


def test_what_happens_once_it_listens_is_no_failed_start() -> None:
    with FailedStart() as start:
        logger.error("! slot 0: worker 7 cannot boot")
        start.is_over = True
        logger.error("! something else")
        assert start.reason(1) is None
