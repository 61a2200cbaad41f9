"""
A log line that many clients can cause, and that is to come at most once a second. Pure: the time is an argument.
"""

from __future__ import annotations

from typing import Final

PAUSE_S: Final = 1.0


class LogThrottle:
    """Says whether a line is due, and how many were left out since the last one."""

    __slots__ = ("_left_out", "_next_at")

    def __init__(self) -> None:
        self._next_at = float("-inf")
        self._left_out = 0

    def due(self, now: float) -> int | None:
        """
        Ask at each cause of the line.

        Returns:
            None when it came less than a second ago; else how many were left out, and the line has to be written.
        """
        if now < self._next_at:
            self._left_out += 1
            return None
        left_out, self._left_out, self._next_at = self._left_out, 0, now + PAUSE_S
        return left_out
