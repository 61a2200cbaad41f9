"""
The table of keys that are away: keys with live connections on another worker than that of their home slot.

Pure, used in the primary; `home_of` and `short` in workers as well. A key's home follows from the number of slots and
the secret, so the table has no entry for a key at home. A key is away when its home had no worker while its connections
came, or when its home is a slot that was added since. While a worker has live connections of such a key, all requests
of the key go to that worker. After the last of them has ended, the key goes home.

**How the table stays right.** The primary notes a key when it sends one of its connections away from home. The worker
reports when the last connection of that key has ended, with the number of the last handoff it had seen. A handoff with
a higher number keeps the entry. Before an added slot is filled, the primary requests from every worker the keys that
are away by the new number of slots. The same request rebuilds the table of a primary that has just started.

**Bounded**: with `AWAY_MAX` keys the table is full. Further keys are not noted; the primary counts them and logs that
once. A key that is not noted goes home with its next connection, wherever its other connections are.

The table never sends anything and has no clock: away_tracker.py does both.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from sticky.keys.hashing import Hashing, Key, Slot

AWAY_MAX: Final = 65_536  # about 30 MB; only the loss of a worker with more clients than that makes more keys away
ANSWER_S: Final = 2.0  # for the workers' answers; after that an added slot is filled without the missing ones
KEY_BYTES: Final = 64  # the table and the messages have a digest in place of a longer key

_STICKY_ID: Final = b"s"  # the first byte of a key made by `Affinity.key_for_sticky_id`


def home_of(hashing: Hashing, key: Key, slots: int) -> Slot:
    """Return the slot of a key when every slot has a worker: the slot in its tag, else the slot by its hash."""
    if key[:1] == _STICKY_ID:
        tagged = hashing.slot_of(key[1:].decode("utf-8"))
        if tagged is not None and tagged < slots:
            return tagged
    return hashing.choose(key, range(slots))  # type: ignore[arg-type]  # a Slot is an int; this is on the hot path


def short(key: bytes) -> Key:
    """Return the form of a key that is stored and sent: a client may invent a sticky id of many kilobytes."""
    if len(key) <= KEY_BYTES:
        return Key(key)
    return Key(b"d" + blake2b(key, digest_size=32).digest())


class _Holding:
    """One worker's connections of one key, as far as the primary knows."""

    __slots__ = ("number", "waiting")

    def __init__(self) -> None:
        self.number = 0  # of the last handoff that was sent to the worker; 0 when the worker reported the key's end
        self.waiting = 0  # handoffs that wait for room in the worker's channel


class _Entry:
    """One key that is away. All its holdings are in one slot: two while a worker drains beside its successor."""

    __slots__ = ("holdings", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.holdings: dict[str, _Holding] = {}  # by worker id


class AwayKeys:
    """
    The table. Workers are named by their worker ids.

    Invariant: each entry has a holding, and `_by_worker` names exactly the holdings that there are.
    """

    def __init__(self, limit: int = AWAY_MAX) -> None:
        self._limit = limit
        self._entries: dict[Key, _Entry] = {}
        self._by_worker: dict[str, set[Key]] = {}
        self.refused = 0  # how often a key was not noted because the table was full
        self._round = 0
        self._unanswered: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def slot_of(self, key: Key) -> Slot | None:
        """Return the slot where the key has live connections, away from home."""
        entry = self._entries.get(short(key))
        return None if entry is None else entry.slot

    def worker_of(self, key: Key) -> str | None:
        """Return the worker that has live connections of the key, away from home; the latest where there are two."""
        entry = self._entries.get(short(key))
        return None if entry is None else next(reversed(entry.holdings))

    # Called for what the primary does

    def wait(self, key: Key, slot: Slot, worker: str) -> None:
        """Note that a handoff of the key waits for a worker, away from home. You must call `unwait` later."""
        holding = self._hold(short(key), slot, worker)
        if holding is not None:
            holding.waiting += 1

    def unwait(self, key: Key, worker: str) -> None:
        """Note that one handoff waits no longer. If it was sent, call `sent` before this, so that the entry stays."""
        entry = self._entries.get(short(key))
        holding = entry.holdings.get(worker) if entry is not None else None
        if holding is not None and holding.waiting:
            holding.waiting -= 1
            self._drop_if_over(short(key), worker)

    def sent(self, key: Key, slot: Slot, worker: str, number: int) -> None:
        """Note that handoff `number` of the key was sent to a worker, away from home."""
        assert number > 0, "handoffs are counted from 1: 0 means that the worker has none"
        holding = self._hold(short(key), slot, worker)
        if holding is not None:
            holding.number = number

    def gone(self, worker: str) -> None:
        """Forget a worker: it is gone, and all its connections with it."""
        self._unanswered.discard(worker)
        for key in self._by_worker.pop(worker, ()):
            entry = self._entries[key]
            assert worker in entry.holdings, "`_by_worker` names no holding that is not there"
            del entry.holdings[worker]
            if not entry.holdings:
                del self._entries[key]

    # Called for what workers report

    def ended(self, keys: Iterable[bytes], worker: str, seen: int) -> None:
        """
        Note that keys have no live connection at a worker.

        Args:
            seen: the last handoff that the worker had adopted or refused when it sent the report.
        """
        for each in keys:
            key = Key(each)
            entry = self._entries.get(key)
            holding = entry.holdings.get(worker) if entry is not None else None
            if holding is not None and seen >= holding.number:
                holding.number = 0
                self._drop_if_over(key, worker)

    def reported(self, keys: Iterable[bytes], slot: Slot, worker: str, seen: int) -> None:
        """Note that keys have live connections at the worker of a slot, away from home. `seen` is as for `ended`."""
        for each in keys:
            key = Key(each)
            entry = self._entries.get(key)
            if entry is not None and worker not in entry.holdings:
                continue  # its connections elsewhere came first, or their worker is draining
            holding = self._hold(key, slot, worker)
            if holding is not None:
                holding.number = max(holding.number, seen, 1)

    # The request to all workers

    def request(self, workers: Iterable[str]) -> int:
        """Begin a round with these workers. Return its number: send that, for each answer has to repeat it."""
        self._round += 1
        self._unanswered = set(workers)
        return self._round

    def answered(self, worker: str, number: int) -> None:
        """Note that a worker has answered a round completely."""
        if number == self._round:
            self._unanswered.discard(worker)

    @property
    def awaits_answers(self) -> bool:
        """Whether a worker has not answered the last round yet."""
        return bool(self._unanswered)

    def end_round(self, number: int) -> None:
        """End a round without the missing answers. It does nothing where a newer round has begun."""
        assert number <= self._round, "a round ends after it has begun"
        if number == self._round:
            self._unanswered.clear()

    def _hold(self, key: Key, slot: Slot, worker: str) -> _Holding | None:
        """Return the holding of a worker, made where there is none; None where the table is full."""
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._limit:
                self.refused += 1
                return None
            entry = self._entries[key] = _Entry(slot)
            assert len(self._entries) <= self._limit, "clients choose the keys, so the table is bounded"
        elif entry.slot != slot:  # the slot where it was has no worker any more
            for other in entry.holdings:
                self._by_worker[other].discard(key)
            entry.slot, entry.holdings = slot, {}
        assert entry.slot == slot, "all live connections of a key are in one slot"
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
        assert key in self._by_worker[worker], "each holding is named in `_by_worker`"
        del entry.holdings[worker]
        self._by_worker[worker].discard(key)
        if not entry.holdings:
            del self._entries[key]
