"""
The primary's reserve of descriptors, and the spare one that is given up to accept a connection when no other is free.

Used in the primary, by the acceptor. Linux reports a waiting client only to a process that has a free descriptor. So
the primary holds a spare one: it closes the spare, accepts the connection, answers it, and opens the spare again. It
never touches a connection.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

RESERVE: Final = 32  # descriptors that no connection gets: for workers that start, and for what workers give back


class DescriptorReserve:
    """Owns the spare descriptor until `close`."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: how many files this process may have open.
        """
        self._full_at = limit - min(RESERVE, limit // 8)
        assert self._full_at > 0, "with a reserve that takes everything no connection would be accepted"
        self._spare = -1
        self.refill()

    def has_room_for(self, fd: int) -> bool:
        """Return whether a connection may keep this descriptor: the kernel always gives the lowest free number."""
        return fd < self._full_at

    def give_up_spare(self) -> bool:
        """Close the spare descriptor, if there is one. You must call `refill` once the free number is used."""
        if self._spare < 0:
            return False
        os.close(self._spare)
        self._spare = -1
        return True

    def refill(self) -> None:
        """Open the spare descriptor again, where a descriptor is free by now."""
        if self._spare < 0:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the spare descriptor for good."""
        self.give_up_spare()
