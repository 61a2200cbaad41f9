"""
One adopted connection, from its adoption until the primary may forget it.

Used in a worker, on its event loop. The primary keeps its copy of a descriptor for the case that this worker dies
before it has read the request (dispatcher.py). Only the code that reads the socket knows when that case is over. So
each connection carries a `Settlement`, and its transport reports the first byte through it. acknowledgements.py decides
when to acknowledge; here nothing is sent and no time passes.
"""

from __future__ import annotations

from typing import Final, Protocol

from sticky.handoff.journal import ADOPTING, NO_MARK, Mark


class Settler(Protocol):
    """Settles connections: `Acknowledgements`."""

    def first_byte_was_read(self, settlement: Settlement) -> None:
        """Note that the first byte of a connection was read. Called at most once for each."""

    def connection_has_ended(self, settlement: Settlement) -> None:
        """Note that a connection has ended, read or not. Called at most once for each."""


class Settlement:
    """Whether a connection was read, and from when on it may be settled."""

    __slots__ = ("_mark", "_settler", "due_at", "is_unread")

    def __init__(self, settler: Settler | None, mark: Mark, due_at: float) -> None:
        """
        Args:
            settler: gets the reports; None for a connection that is settled from the beginning.
            mark: is noted as ADOPTING until the connection is settled or has ended.
            due_at: from when on it may be settled, on the settler's clock.
        """
        self._settler = settler
        self._mark = mark
        self.due_at = due_at
        self.is_unread = settler is not None
        mark.begin(ADOPTING)

    def first_byte_read(self) -> None:
        """Report that the first byte was read. The transport may call this at each read: only the first one counts."""
        if self.is_unread:
            self.is_unread = False
            if self._settler is not None:
                self._settler.first_byte_was_read(self)

    def ended(self) -> None:
        """Report that the connection has ended. Only the first report counts, and none after it was settled."""
        settler, self._settler = self._settler, None
        if settler is not None:
            settler.connection_has_ended(self)
            self._let_go()

    def settle(self) -> None:
        """Take no report any more: the connection is settled. Only the settler calls this."""
        self._settler = None
        self.is_unread = False
        self._let_go()

    def _let_go(self) -> None:
        """End the note in the journal. The mark is freed when the connection is, which may be long before this one."""
        self._mark.end(ADOPTING)
        self._mark = NO_MARK
        self.due_at = 0.0  # one constant for all: each idle connection keeps its settlement


NO_SETTLEMENT: Final = Settlement(None, NO_MARK, 0.0)
"""Of a connection that no primary keeps a copy of."""
