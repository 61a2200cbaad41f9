"""
Keeps the table of keys that are away right: requests reports from the workers, and notifies the workers.

Runs in the primary, between the dispatcher and `AwayKeys` (away.py has the rules of the table). It finds the slot of a
key, notes each handoff that goes away from home, and takes in the workers' reports. It never sends a connection.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Final, Protocol

from sticky.errors import OutOfTurn
from sticky.handoff.channel import Kind
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.worker_handle import WorkerHandle, WorkerState
from sticky.keys.away import ANSWER_S, AwayKeys, home_of
from sticky.keys.hashing import Hashing, Key, Slot
from sticky.loop.poller import Poller

TABLE_FULL_LINE: Final = 'away table full keys=%d reason="further keys go to their home slot at once"'

logger = logging.getLogger("sticky")


class Channels(Protocol):
    """Watches the channels of workers: the supervisor."""

    def wants_write(self, worker: WorkerHandle, wanted: bool) -> None:
        """Have `Dispatcher.flush` called when the channel of a worker has room, or no longer."""


class AwayTracker:
    """The keys that are away, the number of slots, and the workers that know about them."""

    def __init__(
        self,
        poller: Poller,
        hashing: Hashing,
        live: Mapping[Slot, WorkerHandle],
        *,
        channels: Channels,
        counters: dict[str, int],
        own_paths: Collection[str] = (),
    ) -> None:
        """
        Args:
            live: the supervisor's table of the worker that serves each slot now.
            own_paths: requests for them are of no hosted application: they never go to a worker that drains. One with a
                slash at its end stands for all below it.
        """
        self._poller = poller
        self._hashing = hashing
        self._live = live
        self._channels = channels
        self._counters = counters
        self._own_paths = frozenset(own_paths)
        self._own_prefixes = tuple(each for each in own_paths if each.endswith("/"))
        self._table = AwayKeys()
        self._staying = AwayKeys()  # with hosted connections on a worker that drains beside its successor
        self._draining: dict[str, WorkerHandle] = {}  # by worker id: those in `_staying`
        self._slots = 0  # the number of slots when each has a worker
        self._warned: dict[str, WorkerHandle] = {}  # by worker id: those that know that keys of theirs may be elsewhere

    def __len__(self) -> int:
        """Return how many keys are away."""
        return len(self._table)

    @property
    def awaits_answers(self) -> bool:
        """Whether a worker has not reported its keys yet. An added slot must not be filled before that."""
        return self._table.awaits_answers

    # What the dispatcher does

    def slot_for(self, key: Key) -> tuple[Slot, bool]:
        """
        Return the slot that serves a key now, and whether that is away from its home.

        Raises:
            NoLiveSlot: no worker serves.
        """
        if self._table:
            slot = self._table.slot_of(key)
            if slot is not None and slot in self._live:
                return slot, True
        assert self._slots > 0, "the supervisor gives the number of slots before a connection is accepted"
        home = home_of(self._hashing, key, self._slots)
        if home in self._live:
            return home, False
        return self._hashing.choose(key, self._live), True

    def staying_worker(self, handoff: PendingHandoff) -> WorkerHandle | None:
        """
        Return the worker that drains beside its successor and has hosted connections of a handoff's key.

        None where there is none, for what no hosted application serves, and for what a worker has rejected.
        """
        if not self._staying or handoff.key is None:
            return None
        if handoff.kind != "http" or handoff.attempts:
            return None
        if handoff.path in self._own_paths or handoff.path.startswith(self._own_prefixes):
            return None
        worker_id = self._staying.worker_of(handoff.key)
        worker = None if worker_id is None else self._draining[worker_id]
        if worker is None or worker.state is not WorkerState.DRAINING or worker.slot not in self._live:
            return None
        handoff.away = True
        return worker

    def sent(self, handoff: PendingHandoff, worker: WorkerHandle) -> None:
        """Note a handoff that was sent to a worker."""
        if handoff.away and handoff.key is not None:
            table = self._staying if worker.worker_id in self._draining else self._table
            table.sent(handoff.key, worker.slot, worker.worker_id, handoff.number)
            self._check_table()

    def wait(self, handoff: PendingHandoff, worker: WorkerHandle) -> None:
        """Note a handoff that waits for room in a worker's channel. You must call `unwait` when it waits no longer."""
        if handoff.away and handoff.key is not None:
            self._table.wait(handoff.key, worker.slot, worker.worker_id)
            self._check_table()

    def unwait(self, handoff: PendingHandoff, worker: WorkerHandle) -> None:
        """Note that a handoff waits no longer. If it was sent, call `sent` first."""
        if handoff.away and handoff.key is not None:
            self._table.unwait(handoff.key, worker.worker_id)

    # What the supervisor does

    def slots_changed(self, slots: int) -> None:
        """Set the number of slots, and request from each live worker the keys whose home is elsewhere by it."""
        assert slots > 0, "without a slot no key has a home"
        self._slots = slots
        workers = list(self._live.values())
        number = self._table.request(worker.worker_id for worker in workers)
        for worker in workers:
            self._send_slots(worker, number)
        if workers:
            self._poller.after(ANSWER_S, lambda: self._table.end_round(number))

    def warn(self, worker: WorkerHandle) -> None:
        """Notify a worker that is about to serve, if keys of its slot may be away."""
        if self._table or self._staying:
            self._warned[worker.worker_id] = worker
            self._send_slots(worker, 0)

    def worker_gone(self, worker: WorkerHandle) -> None:
        """Forget the keys of a worker: its live connections are gone, or will be when it is killed."""
        self._table.gone(worker.worker_id)
        self._staying.gone(worker.worker_id)
        self._draining.pop(worker.worker_id, None)
        self._warned.pop(worker.worker_id, None)
        self._check_table()

    # What workers report

    def keys_away(self, worker: WorkerHandle, keys: list[bytes], seen: int, number: int, is_all: bool) -> None:
        """
        Take in a worker's report of keys that are away, or a part of it.

        Raises:
            OutOfTurn: the worker has seen a handoff that it was not given.
        """
        _check_seen(worker, seen)
        self._table.reported(keys, worker.slot, worker.worker_id, seen)
        if is_all:
            self._table.answered(worker.worker_id, number)
        self._check_table()

    def keys_ended(self, worker: WorkerHandle, keys: list[bytes], seen: int) -> None:
        """
        Take in a worker's report of keys that were away and have no live connection there any more.

        Raises:
            OutOfTurn: the worker has seen a handoff that it was not given.
        """
        _check_seen(worker, seen)
        self._table.ended(keys, worker.worker_id, seen)
        self._staying.ended(keys, worker.worker_id, seen)
        self._check_table()

    def keys_stay(self, worker: WorkerHandle, keys: list[bytes], seen: int) -> None:
        """
        Take in which keys have hosted connections in a worker that drains: their new ones go there. The worker that
        serves the slot learns that keys of it may be elsewhere.

        Raises:
            OutOfTurn: the worker has seen a handoff that it was not given.
        """
        _check_seen(worker, seen)
        self._draining[worker.worker_id] = worker
        self._staying.reported(keys, worker.slot, worker.worker_id, seen)
        successor = self._live.get(worker.slot)
        if self._staying and successor is not None and successor is not worker:
            self._warned[successor.worker_id] = successor
            self._send_slots(successor, 0)

    def _send_slots(self, worker: WorkerHandle, number: int) -> None:
        if not worker.send(Kind.SLOTS, self._slots, number, worker.worker_id in self._warned):
            self._channels.wants_write(worker, True)

    def _check_table(self) -> None:
        """Count and log what a full table refused. When it is empty, notify the warned workers."""
        if refused := self._table.refused:
            if not self._counters["away_not_noted"]:
                logger.warning(TABLE_FULL_LINE, len(self._table))
            self._counters["away_not_noted"] = refused
        if self._warned and not self._table and not self._staying:
            warned, self._warned = self._warned, {}
            for worker in warned.values():
                self._send_slots(worker, 0)


def _check_seen(worker: WorkerHandle, seen: int) -> None:
    if seen > worker.sent:
        raise OutOfTurn(f"it has seen handoff {seen}, and was given {worker.sent}")
