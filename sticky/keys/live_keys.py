"""
Counts the live connections of each key in one worker, and finds the keys that are away from their home slot.

Pure, used in workers. Only a worker knows its own connections, so it reports when a key has none left. It reports only
keys that are *away*, for the primary keeps those in its table (away.py). A key at home costs a count and no message. A
pooled connection from a proxy holds a key only while a request of that key is in flight.

This module sends nothing: key_report.py does, when `on_ended` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sticky.keys.away import home_of
from sticky.keys.hashing import Hashing, Key, Slot

REPORT_KEYS: Final = 1000  # keys in one message: with at most 65 bytes each, a report fits in a packet


class LiveKeys:
    """
    The keys with live connections here. Their number is bounded by the number of connections.

    Invariant: a key is in at most one of `_counts` and `_ended`, and each key of `_away` is in `_counts`. Each key of
    `_staying` is in `_away`.
    """

    def __init__(self, hashing: Hashing, slot: Slot, on_ended: Callable[[], None]) -> None:
        """
        Args:
            on_ended: called when a key that is away has lost its last connection. It is not called again before
                `take_ended` has emptied the list.
        """
        self._hashing = hashing
        self._slot = slot
        self._on_ended = on_ended
        self._counts: dict[Key, int] = {}
        self._away: set[Key] = set()
        self._ended: dict[Key, None] = {}
        self._staying: set[Key] = set()

    def enter(self, key: Key | None, *, away: bool = False) -> None:
        """Count one more connection. You must call `leave` when it ends. None means that there is no key to count."""
        if key is None:
            return
        self._counts[key] = self._counts.get(key, 0) + 1
        if away or key in self._ended:  # its end is not reported yet, so it never happened for the primary
            self._away.add(key)
            self._ended.pop(key, None)
        assert key not in self._ended, "a key with a live connection has not ended"

    def leave(self, key: Key | None) -> None:
        """Count one connection fewer."""
        if key is None:
            return
        left = self._counts.get(key, 0) - 1
        if left > 0:
            self._counts[key] = left
            return
        self._counts.pop(key, None)
        self._staying.discard(key)
        if key in self._away:
            self._away.discard(key)
            is_first = not self._ended
            self._ended[key] = None
            if is_first:
                self._on_ended()

    def leave_all(self) -> None:
        """End the counts of all keys, for no connection is left. This repairs what a caller of `enter` forgot."""
        for key in list(self._counts):
            self._counts[key] = 1
            self.leave(key)
        assert not self._away, "only a counted key is away"

    def count(self, key: Key) -> int:
        """Return how many live connections a key has here."""
        return self._counts.get(key, 0)

    def is_away(self, key: Key | None) -> bool:
        """Return whether the key has live connections here and its home is elsewhere: its requests belong here."""
        return key in self._away

    def stay(self, keys: Iterable[Key]) -> list[Key]:
        """Note keys that stay here while this worker drains. Return those that are live: their end will be reported."""
        found = [key for key in keys if key in self._counts]
        self._away.update(found)
        self._staying.update(found)
        return found

    @property
    def staying(self) -> list[Key]:
        """The keys of `stay` that are live."""
        return list(self._staying)

    def find_away(self, slots: int) -> list[Key]:
        """Return every live key whose home, among so many slots, is elsewhere. From now on they are away."""
        found = [key for key in self._counts if home_of(self._hashing, key, slots) != self._slot]
        self._away.update(found)
        assert self._away <= self._counts.keys(), "a key without a connection is never away"
        return found

    def take_ended(self) -> list[Key]:
        """Return at most `REPORT_KEYS` of the keys that were away and have ended. Report them, or call `put_back`."""
        keys = [key for key, _ in zip(self._ended, range(REPORT_KEYS), strict=False)]
        for key in keys:
            del self._ended[key]
        return keys

    def put_back(self, keys: list[Key]) -> None:
        """Put back keys that could not be reported now, except those that have a connection again."""
        self._ended = {**dict.fromkeys(key for key in keys if key not in self._counts), **self._ended}
        assert self._counts.keys().isdisjoint(self._ended), "a key that ended and came again is not reported as ended"

    @property
    def has_ended(self) -> bool:
        """Whether `take_ended` has something to return."""
        return bool(self._ended)
