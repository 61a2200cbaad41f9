"""
The mark by which a publication is known again: its run, its room, its number there, and when it was due.

Pure. The mark is text inside the data, so that an application may rename fields, add its own and write the rest anew:
what counts is that the text comes through. A mark of another run, and what others publish, is foreign and is never
counted.

    ~1f3a9c04.0.17.850000~    run, room, number in the room, microseconds from the run's first publication
"""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

from realtime.loadtest.errors import WrongPlan

PLACE: Final = "{text}"
_MARK: Final = re.compile(rb"~([0-9a-f]{8})\.([0-9]{1,6})\.([0-9]{1,9})\.([0-9]{1,12})~")


class Mark(NamedTuple):
    """The room of a publication of this run, its number there, and when it was due."""

    room: int
    number: int
    due_us: int


class Marker:
    """Writes and finds the marks of one run."""

    def __init__(self, run: str, data: str, size: int) -> None:
        """
        Args:
            run: eight hexadecimal digits.
            data: JSON, with {text} inside a string.
            size: bytes that the data shall have; it is longer only when the mark does not fit.

        Raises:
            WrongPlan: the data is no JSON, or has no place for the text.
        """
        assert re.fullmatch("[0-9a-f]{8}", run), run
        try:
            written = json.dumps(json.loads(data), ensure_ascii=False, separators=(",", ":"))
        except ValueError as error:
            raise WrongPlan(f"--data: {data!r} is not JSON ({error})") from None
        before, place, after = written.partition(PLACE)
        if not place:
            raise WrongPlan(f"--data: {PLACE} is missing: the text that is measured goes there")
        self._run = run.encode()
        self._before, self._after = before.encode(), after.encode()
        self._text_bytes = size - len(self._before) - len(self._after)

    def data(self, mark: Mark) -> bytes:
        """Return the data of a publication."""
        text = b"~%b.%d.%d.%d~" % (self._run, *mark)
        return self._before + text.ljust(self._text_bytes, b".") + self._after

    def find(self, message: bytes) -> Mark | None:
        """Return the mark in a message, None when it has none of this run."""
        found = _MARK.search(message)
        if found is None or found[1] != self._run:
            return None
        return Mark(int(found[2]), int(found[3]), int(found[4]))
