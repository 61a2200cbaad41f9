"""
Why a start failed, in one line: the last line of what `realtime serve` prints.

Runs in the primary, as a handler of its log. A start that fails logs many lines, and its reason is one in the middle: a
traceback of the application, before three attempts and the end of the other processes. `FailedStart` remembers the
errors until the server listens, and joins the last of them to the reason. It changes no line and prints nothing.
"""

from __future__ import annotations

import logging
import re
from types import TracebackType
from typing import Final

KEPT: Final = 2  # errors: what was given up, and the failure before it
BY_SIGNAL: Final = 128  # exit statuses from here on: a signal ended it, which is no failure to start
PLACE: Final = re.compile(r'^ *File "([^"]+)", line (\d+)', re.MULTILINE)


class FailedStart(logging.Handler):
    """Remembers the errors of a start, from `__enter__` until `is_over` is set."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.is_over = False
        self._errors: list[str] = []

    def __enter__(self) -> FailedStart:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Remember an error of the start."""
        if not self.is_over:
            self._errors = [*self._errors[1 - KEPT :], record.getMessage().removeprefix("! ")]

    def reason(self, status: int) -> str | None:
        """Return why the start failed, on one line; None where it did not, or ended by a signal."""
        if self.is_over or status == 0 or status >= BY_SIGNAL or not self._errors:
            return None
        return "; ".join(on_one_line(each) for each in self._errors)


def on_one_line(text: str) -> str:
    """Shorten a report: its first line, then the exception and its place if it is a traceback, else the other lines."""
    head, _, rest = text.strip().partition("\n")
    before, found, traceback = rest.partition("Traceback (most recent call last):")
    if found:
        places = PLACE.findall(traceback)
        place = f" ({places[-1][0]}, line {places[-1][1]})" if places else ""
        rest = f"{before} {traceback.strip().splitlines()[-1]}{place}"
    return f"{head}: {' '.join(rest.split())}" if rest.strip() else head
