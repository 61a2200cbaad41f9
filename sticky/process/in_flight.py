"""
How many connections the primary alone holds: those that are lost with it when it is killed.

Runs in the primary. The number stands in a memory file that the keeper keeps, as of the last turn of the loop. The next
primary reads it, and counts these connections as lost: their clients were reset. In an upgrade they are left to the
successor one by one instead (release.py), and nothing is lost.

A number that is a turn old may be off by what one turn accepts. It is a count for operators, and decides nothing.

A handoff that waits for room in one worker's channel is not in the number: it would cost a look at every worker.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from typing import Final, Protocol

from sticky.process.keeper_link import KeeperLink

IN_FLIGHT: Final = "in-flight"  # the name under which the file is kept
LOST: Final = "lost_with_primary"  # the counter
_NUMBERS: Final = struct.Struct("<qq")  # held now; lost with all primaries before


class Holds(Protocol):
    """What holds connections that no worker has: the routing."""

    @property
    def held(self) -> int:
        """How many these are."""


class InFlight:
    """The file of one primary."""

    def __init__(self, keeper: KeeperLink, holder: Holds, counters: Counter[str]) -> None:
        """Count what was lost with the primary before. Without a keeper nothing is noted."""
        self._holder = holder
        self._noted = 0
        self._memory: mmap.mmap | None = None
        before = keeper.take_bytes(IN_FLIGHT)
        if before is not None and len(before) == _NUMBERS.size:
            counters[LOST] += sum(_NUMBERS.unpack(before))
        if keeper.is_used:
            fd = keeper.put_bytes(IN_FLIGHT, _NUMBERS.pack(0, counters[LOST]))
            self._memory = mmap.mmap(fd, _NUMBERS.size)

    def note(self) -> None:
        """
        Note what is held now. Call this after each turn of the loop.

        The memory is shared with the keeper's copy of the file: no call, and no byte on the link, for a number that a
        busy primary changes thousands of times a second.
        """
        held = self._holder.held
        if held != self._noted and self._memory is not None:
            self._noted = held
            struct.pack_into("<q", self._memory, 0, held)
