"""
Which peers have not taken all of the piece that is being written, for whoever writes it.

Runs in the worker, on its event loop. The loop calls `pause_writing` within the very write that leaves something
behind, but it does not say what was written. A function of ours around each write would know. It would cost a call for
each member of a room, though next to no write leaves anything behind. So the one that falls behind puts itself into
this list, and the writer looks into the list once per piece, when it has written that to all.

It never writes, and it keeps nothing: the list is empty whenever a writer has called `note`.
"""

from __future__ import annotations

from typing import Final, Protocol


class FallenBehind(Protocol):
    """A transport whose peer has not taken all that was just written."""

    def left_behind(self, piece: bytes) -> None:
        """Note the piece that was written last. Some bytes of it, or all, wait in the loop's buffer."""


fallen_behind: Final[list[FallenBehind]] = []
"""Filled by `pause_writing`. Who writes asks whether it is empty, which it nearly always is, and else calls `note`."""


def note(piece: bytes) -> None:
    """Tell all that have fallen behind what was written to them. To be called in the turn in which it was written."""
    while fallen_behind:
        fallen_behind.pop().left_behind(piece)
