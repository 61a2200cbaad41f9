"""
The pieces that were written to a socket and that wait in its loop's buffer.

Pure: the size of the buffer is an argument. No loop gives back the bytes in its buffer, but each says exactly how many
there are. So their owner keeps the last pieces that it wrote: the bytes in the buffer are the end of them. It keeps
nothing for a peer that keeps up, and never copies a piece before `tail` is called.
"""

from __future__ import annotations

from collections import deque


class Unsent:
    """The last pieces that were written to one socket, at least as many bytes as its buffer has."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self.size = 0
        """Bytes in the pieces."""

    def append(self, piece: bytes) -> None:
        """Note what was written last. Call `trim` from time to time: it alone forgets anything."""
        self._pieces.append(piece)
        self.size += len(piece)

    def trim(self, buffered: int) -> None:
        """Forget the pieces of which the buffer, with so many bytes, has nothing any more."""
        pieces = self._pieces
        while pieces and self.size - len(pieces[0]) >= buffered:
            self.size -= len(pieces.popleft())

    def tail(self, buffered: int) -> bytes:
        """Return the bytes in the buffer, which has so many."""
        self.trim(buffered)
        assert buffered <= self.size, "every piece that the buffer may have was appended"
        return b"".join(self._pieces)[self.size - buffered :]
