"""
Limits a log line that many clients can cause to one a second.

Pure, used in the primary and in workers. The time is an argument. It never logs: the caller does.
"""

from __future__ import annotations

from typing import Final

PAUSE_S: Final = 1.0


class LogThrottle:
    """Decides whether a line is due, and counts the lines that were left out since the last one."""

    __slots__ = ("_left_out", "_next_at")

    def __init__(self) -> None:
        self._next_at = float("-inf")
        self._left_out = 0

    def due(self, now: float) -> int | None:
        """
        Count one cause of the line. Call this at each of them.

        Returns:
            None when the last line is less than a second old. Otherwise the number of causes that were left out; you
            must write the line then.
        """
        if now < self._next_at:
            self._left_out += 1
            return None
        left_out, self._left_out, self._next_at = self._left_out, 0, now + PAUSE_S
        return left_out
