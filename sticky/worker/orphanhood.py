"""
The time of a worker without a primary: it serves on, looks for the next primary, and in the end closes its clients.

Used in a worker, on its event loop. A primary that dies is followed by another, which its keeper starts, and the worker
does not notice. So a channel that has ended says that the keeper is gone as well, or that there never was one. Clients
are served for the orphan grace. Over the last half of it, `CLOSING_MAX_S` at most, the worker drains: its clients get a
close with a reconnect code, evenly spread. A primary that starts meanwhile adopts the worker.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from sticky.handoff.orphan_report import OrphanReport
from sticky.worker.primary_search import PrimarySearch

CLOSING_MAX_S: Final = 30.0  # clients that return within half a minute storm nothing


class Orphanhood:
    """It begins with `begin`, and ends with a primary that was found, or with the drain."""

    def __init__(
        self,
        directory: str,
        report: OrphanReport,
        *,
        grace_s: float,
        on_over: Callable[[float], object],
    ) -> None:
        """
        Args:
            directory: the control directory; "" where no other primary can be found.
            on_over: called when the worker has to drain, with the seconds that it has for that.
        """
        self.grace_s = grace_s
        """For how long clients are served."""
        self.closing_s = min(grace_s / 2, CLOSING_MAX_S)
        """For how long clients are closed, at the end of that."""
        self._on_over = on_over
        self._search = PrimarySearch(directory, report)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def may_end_well(self) -> bool:
        """Whether another primary can find this worker, so that it waits even without a client."""
        return self._search.is_possible

    def begin(self, on_found: Callable[[socket.socket], object]) -> None:
        """Note that the primary is lost. `on_found` is called with the channel to another one, and owns it."""
        assert self._timer is None, "a primary is lost once, and found before it is lost again"
        wait_s = self.grace_s - self.closing_s
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_over, self.closing_s)

        def found(sock: socket.socket) -> None:
            self.end()
            on_found(sock)

        self._search.start(found)

    def end(self) -> None:
        """Wait for nothing any more."""
        self._search.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
