"""
What a broker in memory keeps of rooms, and how many bytes that is: streams, positions, idempotency keys.

Pure: the time is an argument. Runs in the local broker's process, or in the worker that is alone. memory.py has the
members and joins both. Everything here is counted against a `Budget`, and goes when its time is over.

**How long a position is kept.** Publications go `ttl_s` after the last one. The position goes on counting for
`meta_ttl_s` (30 days): it proves to who comes back that nothing was missed. In a room in which nothing was ever
published there is nothing to prove: its position goes with the last subscriber, and `UNBORN_S` after somebody asked
for it in any case. It is drawn from the broker's life and the room's name, so that it is the same when it comes again;
only where a stream was forgotten is the next one of another epoch. Where room is needed, positions without publications
are forgotten before their time, those first that were not used for the longest: whoever stood there is told that it
may have missed something.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections import deque
from collections.abc import Sequence
from typing import Final

from realtime.broker.base import UNBORN_S, History, Position, Publication, Published, Retention, Room

GENERATIONS: Final = (
    1024  # of epochs; rooms that share one are told of another epoch once too often, and never too seldom
)
PRESSED_S: Final = 1.0  # between two attempts to make room
SPARED: Final = 20  # of what may be kept, this part is made free, so that the next attempt is not soon

# What CPython 3.11 to 3.14 takes for the objects themselves, entries of dictionaries included; rounded up.
_STREAM: Final = 400
_QUEUE: Final = 760  # an empty deque
_PUBLICATION: Final = 240
_INFO: Final = 330
_TAGS: Final = 240
_ENTRY: Final = 210
_KEY: Final = 400

size_of = sys.getsizeof


class Budget:
    """How many bytes are kept, and how many may be. `refused` counts what was not taken."""

    __slots__ = ("held", "limit", "refused")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.held = 0
        self.refused = 0

    def admits(self, growth: int) -> bool:
        """Say whether so much more may be kept. What makes nothing grow always may."""
        return growth <= 0 or self.limit is None or self.held + growth <= self.limit


class Full(Exception):
    """There is no room for what was to be kept. Nothing was changed."""


def cost_of(publication: Publication) -> int:
    """Return about how many bytes a kept publication takes."""
    size = _PUBLICATION + len(publication.data)
    info, tags = publication.info, publication.tags
    if info is not None:
        size += _INFO + len(info.user) + len(info.connection_id)
        if info.conn_info is not None:
            size += len(info.conn_info)
        if info.chan_info is not None:
            size += len(info.chan_info)
    if tags:
        size += _TAGS + sum([_ENTRY + size_of(name) + size_of(value) for name, value in tags.items()])
    return size


class Stream:
    """The publications of one room, oldest first, and the position after the last."""

    __slots__ = ("epoch", "expires_at", "offset", "publications", "published_at", "ttl_s")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.offset = 0
        self.publications: deque[Publication] | None = None  # none, rather than an empty one
        self.published_at = 0.0
        self.ttl_s = 0.0  # of its publications, as the last one had it
        self.expires_at = 0.0  # when even the position is forgotten


class Streams:
    """Streams and idempotency keys. Times are in seconds, on any clock that never goes back."""

    def __init__(self, budget: Budget, life: bytes) -> None:
        """`life` is what no other process ever had: streams of another life have other epochs."""
        self.by_room: dict[Room, Stream] = {}
        self._budget = budget
        self._life = life
        self._generations = [0] * GENERATIONS
        self._done: dict[tuple[Room, str], tuple[float, Position]] = {}
        self._kept = 0  # publications
        self._pressed_at = float("-inf")

    def publish(
        self,
        now: float,
        room: Room,
        publication: Publication,
        retention: Retention,
        idempotency_key: str | None,
        idempotency_ttl_s: float,
        *,
        is_bound: bool = True,
    ) -> tuple[Published, Publication | None]:
        """
        Add a publication. Return its position, and the publication as all get it, or None for a repetition. Without
        `is_bound` it is kept whatever the budget says.

        Raises:
            Full: there is no room for it.
        """
        if idempotency_key is not None:
            done = self._done.get((room, idempotency_key))
            if done is not None and done[0] > now:
                return Published(done[1], duplicate=True), None
        key_cost = 0 if idempotency_key is None else _key_cost(room, idempotency_key)
        cost = 0
        if retention.size:
            cost = cost_of(publication)
            if is_bound and not self._budget.admits(cost + key_cost + _STREAM + _QUEUE + size_of(room)):
                self._take(now, room, cost, retention, key_cost)
        elif key_cost and is_bound:
            self.admit(now, key_cost)
        position = Position("", 0)
        if retention.size:
            stream = self.by_room.get(room)
            if stream is None or stream.expires_at <= now:
                stream = self._begin(now, room, retention)
            stream.offset += 1
            stream.expires_at = now + max(retention.meta_ttl_s, retention.ttl_s)
            position = Position(stream.epoch, stream.offset)
            publication = Publication(
                publication.data,
                stream.offset,
                stream.epoch,
                publication.info,
                publication.tags,
                publication.time_ms,
                publication.exclude,
            )
            if now - stream.published_at >= retention.ttl_s:
                self._clear(stream)  # what had expired does not come back with the next
            stream.published_at, stream.ttl_s = now, retention.ttl_s
            kept = stream.publications
            if kept is None:
                kept = stream.publications = deque()
                self._budget.held += _QUEUE
            kept.append(publication)
            self._kept += 1
            self._budget.held += cost
            if len(kept) > retention.size:
                self._trim(stream, now, retention)
        if idempotency_key is not None:
            if self._done.pop((room, idempotency_key), None) is None:
                self._budget.held += key_cost
            self._done[(room, idempotency_key)] = (now + idempotency_ttl_s, position)
        return Published(position), publication

    def _take(self, now: float, room: Room, cost: int, retention: Retention, key_cost: int) -> None:
        """Refuse what would grow beyond the budget. A room whose history has its size goes on: one goes for each."""
        growth = key_cost + cost
        stream = self.by_room.get(room)
        kept = () if stream is None or stream.publications is None else stream.publications
        growth += _STREAM + size_of(room) if stream is None else 0
        growth += 0 if kept else _QUEUE
        leaving = len(kept) + 1 - retention.size
        if stream is not None and kept and now - stream.published_at >= retention.ttl_s:
            leaving = len(kept)
        growth -= sum([cost_of(each) for each, _ in zip(kept, range(max(leaving, 0)), strict=False)])
        self.admit(now, growth)

    def admit(self, now: float, growth: int) -> None:
        """
        See that so much more may be kept; where it may not, forget what is due, and what nobody needs.

        Raises:
            Full: it may not.
        """
        if not self._budget.admits(growth) and now - self._pressed_at >= PRESSED_S:
            self._pressed_at = now
            self.sweep(now)
            self._forget_positions(growth)
        if not self._budget.admits(growth):
            self._budget.refused += 1
            raise Full

    def _forget_positions(self, growth: int) -> None:
        """Forget positions of rooms that have no publications, until so much more may be kept, and some to spare."""
        growth += (self._budget.limit or 0) // SPARED
        idle = [room for room, stream in self.by_room.items() if stream.publications is None]
        idle.sort(key=lambda room: self.by_room[room].expires_at)
        for room in idle:
            if self._budget.admits(growth):
                return
            self.forget(room)

    def position(self, now: float, room: Room, retention: Retention) -> Position:
        """Return the top of a stream, beginning it where there is none and there is memory for it: it is the same."""
        if room not in self.by_room and not self._budget.admits(_STREAM + size_of(room)):
            return Position(self._epoch_of(room), 0)
        stream = self._begin(now, room, retention)
        return Position(stream.epoch, stream.offset)

    def positions(self, now: float, rooms: Sequence[Room]) -> dict[Room, Position]:
        found = {}
        for room in rooms:
            stream = self.by_room.get(room)
            if stream is not None and stream.expires_at > now:
                found[room] = Position(stream.epoch, stream.offset)
                if not stream.offset:
                    stream.expires_at = max(stream.expires_at, now + UNBORN_S)
        return found

    def history(
        self,
        now: float,
        room: Room,
        retention: Retention,
        since: Position | None,
        limit: int,
        reverse: bool,
        begin: bool,
    ) -> History:
        stream = self.by_room.get(room)
        if stream is None or stream.expires_at <= now:
            return History((), self.position(now, room, retention) if begin else Position("", 0))
        if stream.offset or begin:
            stream = self._begin(now, room, retention)
        self._trim(stream, now, retention)
        top = Position(stream.epoch, stream.offset)
        if limit <= 0 or stream.publications is None:
            return History((), top)
        kept = list(stream.publications)
        if reverse:
            kept.reverse()
        if since is not None and reverse:
            kept = [publication for publication in kept if publication.offset < since.offset]
        elif since is not None:
            kept = [publication for publication in kept if publication.offset > since.offset]
        return History(kept[:limit], top)

    def forget_history(self, room: Room) -> None:
        """Remove a room's publications; its position goes on counting."""
        stream = self.by_room.get(room)
        if stream is not None:
            self._clear(stream)

    def forget(self, room: Room) -> None:
        """Remove a stream with its position: what comes next has another epoch."""
        stream = self.by_room.pop(room)
        self._clear(stream)
        self._budget.held -= _STREAM + size_of(room)
        if stream.offset:
            self._generations[self._number_of(room)] += 1

    def unwatched(self, room: Room) -> None:
        """Learn that nobody is subscribed any more. A room that was only looked at is not kept."""
        stream = self.by_room.get(room)
        if stream is not None and not stream.offset:
            self.forget(room)

    def sweep(self, now: float) -> None:
        """Forget what has expired."""
        for room, stream in list(self.by_room.items()):
            if stream.expires_at <= now:
                self.forget(room)
            elif stream.publications is not None and now - stream.published_at >= stream.ttl_s:
                self._clear(stream)
        for key in [key for key, (expires_at, _) in self._done.items() if expires_at <= now]:
            del self._done[key]
            self._budget.held -= _key_cost(*key)

    def _begin(self, now: float, room: Room, retention: Retention) -> Stream:
        stream = self.by_room.get(room)
        if stream is not None and stream.expires_at <= now:
            self.forget(room)
            stream = None
        if stream is None:
            stream = self.by_room[room] = Stream(self._epoch_of(room))
            self._budget.held += _STREAM + size_of(room)
        kept_s = max(retention.meta_ttl_s, retention.ttl_s)
        stream.expires_at = now + (kept_s if stream.offset else max(min(kept_s, UNBORN_S), 0.0))
        return stream

    def _trim(self, stream: Stream, now: float, retention: Retention) -> None:
        """Forget what is too old or too much."""
        kept = stream.publications
        if kept is None:
            return
        if now - stream.published_at >= retention.ttl_s:
            self._clear(stream)
            return
        while len(kept) > retention.size:
            self._budget.held -= cost_of(kept.popleft())
            self._kept -= 1
        if not kept:
            self._clear(stream)

    def _clear(self, stream: Stream) -> None:
        if stream.publications is not None:
            self._budget.held -= _QUEUE + sum(map(cost_of, stream.publications))
            self._kept -= len(stream.publications)
            stream.publications = None

    # Epochs

    def _epoch_of(self, room: Room) -> str:
        """Return what the next stream of a room has for its epoch."""
        generation = self._generations[self._number_of(room)]
        name = b"%d:%b" % (generation, room.encode("utf-8", "surrogatepass"))
        return base64.urlsafe_b64encode(hashlib.blake2b(name, key=self._life, digest_size=6).digest()).decode()

    @staticmethod
    def _number_of(room: Room) -> int:
        digest = hashlib.blake2b(room.encode("utf-8", "surrogatepass"), digest_size=2).digest()
        return int.from_bytes(digest, "big") % GENERATIONS

    def statistics(self) -> dict[str, int]:
        return {
            "streams": len(self.by_room),
            "kept": self._kept,
            "keys": len(self._done),
        }


def _key_cost(room: Room, key: str) -> int:
    return _KEY + size_of(room) + size_of(key)
