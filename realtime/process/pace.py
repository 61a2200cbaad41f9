"""
The pace of a drain: how many connections to close now, so that their ends are spread evenly up to the deadline.

Pure, used in the worker; the time is an argument, on any clock that never goes back. A worker that stops closes the
connections that could not move. Clients that are closed at once come back at once, and storm whatever serves them next.
So of n connections the k-th is closed when k/n of the time is over: for clients that stay, the times of close are
uniform, and the last is at the deadline.

Clients leave by themselves meanwhile, and handshakes end. So the pace has no list and no total. It asks for the number
that is left each time, and spreads these over the time that is left:

    next close = last close + (deadline - last close) / left

It closes nothing, and does not choose which connection is next.
"""

from __future__ import annotations


class Pace:
    """The pace of one drain."""

    def __init__(self, begin_s: float, end_s: float) -> None:
        """
        Args:
            begin_s: the time now.
            end_s: when the last connection is to be closed. In the past or now: all are due at once.
        """
        self._last_s = begin_s  # when the last close was due; nothing before it counts
        self._end_s = max(end_s, begin_s)
        self._left = 0  # as of the last question

    def due(self, now_s: float, left: int) -> int:
        """
        Return how many of the connections that are left are to be closed now. The caller must close so many.

        A caller that comes late gets all that were due since: the pace is that of the deadline, not of the caller.
        """
        self._rebase(now_s, left)
        count = 0
        while count < left and (next_s := self._next_s(left - count)) <= now_s:
            self._last_s = next_s
            count += 1
        assert 0 <= count <= left, "no connection is closed that is not there"
        self._left = left - count
        return count

    def wait_s(self, now_s: float, left: int) -> float:
        """Return for how long nothing is due, if no more connections come. 0 where none is left."""
        return max(self._next_s(left) - now_s, 0.0) if left else 0.0

    def _next_s(self, left: int) -> float:
        assert left > 0, "the time is divided by the connections that are left"
        return self._last_s + (self._end_s - self._last_s) / left

    def _rebase(self, now_s: float, left: int) -> None:
        """
        Begin anew from now where connections were added. Counted from the last close, many would be due at once: those
        that would have been closed meanwhile, if they had been here.
        """
        if left > self._left:
            self._last_s = max(self._last_s, min(now_s, self._end_s))
