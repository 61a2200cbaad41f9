"""
Reports to the primary the keys that are away: those with live connections here, and those that have none left.

Used in a worker. The primary keeps the keys that are away in a table (away.py). It requests all of them when the number
of slots changes. A key that has ended is reported at once. asyncio closes a socket only after that, so a client that
sees the end of its connection and comes back is not sent here again.

What finds no room in the channel waits here and is sent at the next heartbeat.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from sticky.handoff.channel import Kind
from sticky.keys.away import short
from sticky.keys.hashing import Key
from sticky.keys.live_keys import REPORT_KEYS
from sticky.worker.acknowledgements import Acknowledgements
from sticky.worker.primary_link import PrimaryLink
from sticky.worker.routes import Routes


class KeyReport:
    """The reports that are not sent yet."""

    def __init__(self, link: PrimaryLink, acknowledgements: Acknowledgements) -> None:
        self._link = link
        self._acknowledgements = acknowledgements
        self._answers: deque[tuple[Any, ...]] = deque()  # parts of the answer to the last request
        self._came: list[Key] = []  # away, and not reported
        self._stays: list[Key] = []  # while this worker drains, and not reported

    def answer(self, routes: Routes, slots: int, request: int) -> None:
        """
        Report every live key whose home, among so many slots, is elsewhere.

        The answer to an older request is dropped: the primary waits for the newest one only.

        Args:
            routes: of this worker, as in `send`. They know the live keys.
            request: the primary's number of the request, which each part of the answer repeats.
        """
        assert request > 0, "0 stands for no request, and the primary waits for no answer to it"
        routes.forget()
        found = [short(key) for key in routes.keys.find_away(slots)]
        parts = [found[begin : begin + REPORT_KEYS] for begin in range(0, len(found), REPORT_KEYS)] or [[]]
        seen = self._acknowledgements.seen
        self._answers = deque((part, seen, request, False) for part in parts[:-1])
        self._answers.append((parts[-1], seen, request, True))
        self.send(routes)

    def came(self, key: Key) -> None:
        """Report a key that is away, whose connection moved to this worker. Call `send` after the last of several."""
        self._came.append(key)

    def stay(self, routes: Routes) -> None:
        """Report all keys that stay here while this worker drains."""
        self._stays = [short(key) for key in routes.keys.staying]
        self.send(routes)

    def send(self, routes: Routes) -> None:
        """Send what waits, as far as the channel has room."""
        while self._answers:
            if not self._link.send(Kind.KEYS_AWAY, *self._answers[0]):
                return
            self._answers.popleft()
        while self._came:
            part = self._came[:REPORT_KEYS]
            if not self._link.send(Kind.KEYS_AWAY, part, self._acknowledgements.seen, 0, False):
                return
            del self._came[:REPORT_KEYS]
        while self._stays:
            if not self._link.send(Kind.KEYS_STAY, self._stays[:REPORT_KEYS], self._acknowledgements.seen):
                return
            del self._stays[:REPORT_KEYS]
        live = routes.keys
        while live.has_ended:
            keys = live.take_ended()
            assert keys, "a key that has ended is waiting: `has_ended`"
            if not self._link.send(Kind.KEYS_ENDED, [short(key) for key in keys], self._acknowledgements.seen):
                live.put_back(keys)
                return
            routes.forget(keys)
