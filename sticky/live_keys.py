"""
Counts the live connections of each key in one worker, and finds the keys that are away from their home slot.

Pure, used in workers. A worker knows its own connections and nobody else does: so it is the one that says when a key
has none left. It says so only of keys that are *away*, which the primary keeps in its table (away.py); a key at home
costs a count and no message. A connection from a proxy holds a key only while a request of that key is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sticky.away import home_of
from sticky.hashing import Hashing, Key, Slot

REPORT_KEYS: Final = 1000  # in one message; a key that is sent has at most 65 bytes, so a report has room in a packet


class LiveKeys:
    """The keys with live connections here. Bounded by the number of connections."""

    def __init__(self, hashing: Hashing, slot: Slot, on_ended: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            on_ended: called when a key that is away has lost its last connection, unless that is waiting to be taken.
        """
        self._hashing = hashing
        self._slot = slot
        self.on_ended = on_ended
        self._counts: dict[Key, int] = {}
        self._away: set[Key] = set()
        self._ended: dict[Key, None] = {}

    def enter(self, key: Key | None, *, away: bool = False) -> None:
        """Count one connection more. The caller owes `leave`. None, which is no key, is not counted."""
        if key is None:
            return
        self._counts[key] = self._counts.get(key, 0) + 1
        if away or key in self._ended:  # that it had ended is not told yet: so it has not
            self._away.add(key)
            self._ended.pop(key, None)

    def leave(self, key: Key | None) -> None:
        """Count one connection less."""
        if key is None:
            return
        left = self._counts.get(key, 0) - 1
        if left > 0:
            self._counts[key] = left
            return
        self._counts.pop(key, None)
        if key in self._away:
            self._away.discard(key)
            is_first = not self._ended
            self._ended[key] = None
            if is_first:
                self.on_ended()

    def leave_all(self) -> None:
        """Learn that no connection is left, of any key."""
        for key in list(self._counts):
            self._counts[key] = 1
            self.leave(key)

    def is_away(self, key: Key | None) -> bool:
        """Whether the key has live connections here though its home is elsewhere: its requests belong here."""
        return key in self._away

    def find_away(self, slots: int) -> list[Key]:
        """Find every live key whose home, among so many slots, is elsewhere. They are away from here on."""
        found = [key for key in self._counts if home_of(self._hashing, key, slots) != self._slot]
        self._away.update(found)
        return found

    def take_ended(self) -> list[Key]:
        """Take some of the keys that were away and have no connection left, `REPORT_KEYS` at most."""
        keys = [key for key, _ in zip(self._ended, range(REPORT_KEYS), strict=False)]
        for key in keys:
            del self._ended[key]
        return keys

    def put_back(self, keys: list[Key]) -> None:
        """Take back what could not be told now: the channel is full."""
        self._ended = {**dict.fromkeys(key for key in keys if key not in self._counts), **self._ended}

    @property
    def has_ended(self) -> bool:
        """Whether something waits to be taken."""
        return bool(self._ended)
