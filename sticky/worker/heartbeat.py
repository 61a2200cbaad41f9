"""
The heartbeat of a worker: proves to the primary that the event loop turns, and brings its statistics.

Used in a worker, on its event loop. It has to be a task of that loop: a thread would prove nothing about a blocked
loop. The primary kills a worker that is silent for too long. So the heartbeat goes out whatever the statistics are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from sticky.handoff.channel import Kind
from sticky.handoff.messages import is_plain
from sticky.worker.primary_link import PrimaryLink

MOVING_BEAT_S: Final = 0.5
"""Between two heartbeats while connections of another worker may come: the primary waits for them 2 s and no longer."""
STATISTICS_LINE: Final = 'statistics not sent reason="see the exception; heartbeats go out without them"'

logger = logging.getLogger("sticky.worker")


class Heartbeat:
    """Makes heartbeats of this worker's counts and the application's statistics."""

    def __init__(self, link: PrimaryLink, statistics: Callable[[], Mapping[str, Any]]) -> None:
        """
        Args:
            statistics: called for each heartbeat. It returns plain data, which `status` shows.
        """
        self._link = link
        self._statistics = statistics
        self._has_failed = False  # and the log has the line

    def beat(self, connections: int, adopted: int) -> None:
        """Send a heartbeat. An exception in `statistics` is logged once, and the heartbeat goes out without them."""
        try:
            statistics = dict(self._statistics())
            if not is_plain(statistics):
                raise TypeError("the statistics are not plain data")
            self._link.send(Kind.BEAT, connections, adopted, statistics)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                logger.exception(STATISTICS_LINE)
            self._link.send(Kind.BEAT, connections, adopted, {})
