"""
The keys that are away: which have live connections on another worker than that of their home slot.

Pure, used in the primary; `home_of` and `short` in workers as well. A key's home follows from the number of slots and
the secret, so keys at home need no table. A key is away when its home had no worker while the key's connections came,
or when its home is a slot that was added since. As long as a worker has live connections of such a key, all its
requests go to that worker. When there are none, the key goes home.

**Who knows what.** The primary notes a key when it sends a connection away from home. The worker says when the last
connection of that key has ended, with the number of the last connection it had seen: what was sent to it since then
counts on. Before an added slot is filled, the primary asks every worker for the keys that are away by the new number
of slots. The same question rebuilds the table of a primary that has just begun.

**Bounded**: above `AWAY_MAX` keys no more are noted, which is counted and logged once. A key that is not noted goes
home with its next connection, whatever it has elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from sticky.hashing import Hashing, Key, Slot

AWAY_MAX: Final = 65_536  # about 30 MB; more keys than that are away when a worker with so many clients is lost
ANSWER_S: Final = 2.0  # for the workers to say what they have; an added slot is filled then without those that do not
KEY_BYTES: Final = 64  # a longer key stands in the table, and in messages, as its digest

_STICKY_ID: Final = b"s"  # as `Affinity.key_for_session` begins a key


def home_of(hashing: Hashing, key: Key, slots: int) -> Slot:
    """Return the slot of a key when all slots have a worker: that in its tag, else by its hash."""
    if key[:1] == _STICKY_ID:
        tagged = hashing.slot_of(key[1:].decode("utf-8"))
        if tagged is not None and tagged < slots:
            return tagged
    return hashing.choose(key, range(slots))  # type: ignore[arg-type]  # a Slot is an int; this is on the hot path


def short(key: bytes) -> Key:
    """Shorten a key to what is kept and sent: anybody may invent an id of many kilobytes."""
    if len(key) <= KEY_BYTES:
        return Key(key)
    return Key(b"d" + blake2b(key, digest_size=32).digest())


class _Holding:
    """One worker's connections of one key, as far as the primary knows."""

    __slots__ = ("number", "waiting")

    def __init__(self) -> None:
        self.number = 0  # of the last connection that was sent to it
        self.waiting = 0  # connections that wait for room in its channel


class _Entry:
    __slots__ = ("holdings", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.holdings: dict[str, _Holding] = {}  # by worker id: two while a worker drains beside its successor


class AwayKeys:
    """The table. Workers are named by their worker id."""

    def __init__(self, limit: int = AWAY_MAX) -> None:
        self._limit = limit
        self._entries: dict[Key, _Entry] = {}
        self._by_worker: dict[str, set[Key]] = {}
        self.refused = 0  # keys that were not noted, because the table was full
        self._round = 0
        self._unanswered: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def slot_of(self, key: Key) -> Slot | None:
        """Return the slot where the key has live connections, away from home."""
        entry = self._entries.get(short(key))
        return None if entry is None else entry.slot

    # What the primary does

    def wait(self, key: Key, slot: Slot, worker: str) -> None:
        """Note that a connection of the key waits for a worker, away from home. The caller owes `unwait`."""
        holding = self._hold(short(key), slot, worker)
        if holding is not None:
            holding.waiting += 1

    def unwait(self, key: Key, worker: str) -> None:
        """Note that one no longer waits: it was sent, which `sent` says first, or will not be."""
        entry = self._entries.get(short(key))
        holding = entry.holdings.get(worker) if entry is not None else None
        if holding is not None and holding.waiting:
            holding.waiting -= 1
            self._drop_if_over(short(key), worker)

    def sent(self, key: Key, slot: Slot, worker: str, number: int) -> None:
        """Note that connection `number` of the key was sent to a worker, away from home."""
        holding = self._hold(short(key), slot, worker)
        if holding is not None:
            holding.number = number

    def gone(self, worker: str) -> None:
        """Learn that a worker, and with it all its connections, is gone."""
        self._unanswered.discard(worker)
        for key in self._by_worker.pop(worker, ()):
            entry = self._entries[key]
            del entry.holdings[worker]
            if not entry.holdings:
                del self._entries[key]

    # What workers say

    def ended(self, keys: Iterable[bytes], worker: str, seen: int) -> None:
        """
        Learn that keys have no live connection at a worker.

        Args:
            seen: the number of the last connection it had adopted, or refused, when it said so.
        """
        for each in keys:
            key = Key(each)
            entry = self._entries.get(key)
            holding = entry.holdings.get(worker) if entry is not None else None
            if holding is not None and seen >= holding.number:
                holding.number = 0
                self._drop_if_over(key, worker)

    def reported(self, keys: Iterable[bytes], slot: Slot, worker: str, seen: int) -> None:
        """Learn that keys have live connections at the worker of a slot, away from home. `seen` is as for `ended`."""
        for each in keys:
            key = Key(each)
            entry = self._entries.get(key)
            if entry is not None and worker not in entry.holdings:
                continue  # it has connections elsewhere already: they were there first, or their worker drains
            holding = self._hold(key, slot, worker)
            if holding is not None:
                holding.number = max(holding.number, seen, 1)

    # The question

    def request(self, workers: Iterable[str]) -> int:
        """Begin a round: these workers are asked now. Return its number, which their answers bear."""
        self._round += 1
        self._unanswered = set(workers)
        return self._round

    def answered(self, worker: str, number: int) -> None:
        """Learn that a worker has said all that it has for a round."""
        if number == self._round:
            self._unanswered.discard(worker)

    @property
    def awaits_answers(self) -> bool:
        """Whether somebody has not answered yet."""
        return bool(self._unanswered)

    def give_up(self, number: int) -> None:
        """End a round without those that have not answered."""
        if number == self._round:
            self._unanswered.clear()

    def _hold(self, key: Key, slot: Slot, worker: str) -> _Holding | None:
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._limit:
                self.refused += 1
                return None
            entry = self._entries[key] = _Entry(slot)
        elif entry.slot != slot:  # the slot where it was has no worker any more
            for other in entry.holdings:
                self._by_worker[other].discard(key)
            entry.slot, entry.holdings = slot, {}
        holding = entry.holdings.get(worker)
        if holding is None:
            holding = entry.holdings[worker] = _Holding()
            self._by_worker.setdefault(worker, set()).add(key)
        return holding

    def _drop_if_over(self, key: Key, worker: str) -> None:
        entry = self._entries[key]
        holding = entry.holdings[worker]
        if holding.number or holding.waiting:
            return
        del entry.holdings[worker]
        self._by_worker[worker].discard(key)
        if not entry.holdings:
            del self._entries[key]
